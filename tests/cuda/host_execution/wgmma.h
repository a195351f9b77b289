// The functions of kernels/ptx_sm90.h for the CPU.
#pragma once

#include "copies.h"
#include "half.h"
#include "instructions.h"
#include "runtime.h"

#include <bit>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <type_traits>
#include <vector>

namespace kerneldna::cuda {
namespace host_execution {

// The products of one thread that a group of four warps starts and waits for later: wgmma. Until then the thread sees
// NaN in their sums. A GPU reads the operand in shared memory at any time between: here as early or as late as copies
// arrive.
class Products {
public:
  void start(Operand operand, std::span<float> d, const uint32_t (&a)[4], uint64_t b);
  void commit();
  void wait(int pending);
  void fence() { is_fenced = true; }
  // Registers were written that a product may read.
  void note_write() { is_fenced = false; }

  void check_none_pending() const;
  void clear();

private:
  struct Sums {
    std::vector<float> values;
    int pending = 0; // products to come
  };
  struct Product {
    Operand operand;
    uint64_t b;
    std::span<float> d;
    const uint32_t *a;
    uint32_t a_at_start[4];
  };
  static void multiply(const Exchange &lanes, size_t index);
  void finish(const Product &product);

  std::deque<Product> products;
  std::vector<size_t> group_ends; // in products
  std::map<float *, Sums> sums;   // by the registers that wait for them
  bool is_fenced = false;
};
Products &products();

// The four warps of a group start the same products: begun and ended with a block of threads.
void begin_products();
void end_products();

} // namespace host_execution

inline void fence_proxy_async() { host_execution::copies().publish(); }
inline void wgmma_fence() { host_execution::products().fence(); }
inline void wgmma_commit() { host_execution::products().commit(); }
template <int Pending> inline void wgmma_wait() { host_execution::products().wait(Pending); }

template <class T, int Sums> inline void wgmma_64x16(float (&d)[Sums], const uint32_t (&a)[4], uint64_t b) {
  static_assert(Sums == 32 || Sums == 64);
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  using host_execution::Operand;
  host_execution::products().start(std::is_same_v<T, __half> ? Operand::f16 : Operand::bf16, d, a, b);
}

} // namespace kerneldna::cuda
