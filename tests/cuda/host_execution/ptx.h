// The functions of kernels/ptx.h for the CPU.
#pragma once

#include "copies.h"
#include "instructions.h"
#include "runtime.h"

#include <type_traits>

namespace kerneldna::cuda {

inline uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(static_cast<const std::byte *>(pointer) - host_execution::shared_memory());
}

inline void cp_async(void *target, const void *source, bool valid) {
  host_execution::copies().start(target, source, valid);
}
inline void cp_async_commit() { host_execution::copies().commit(); }
template <int Pending> inline void cp_async_wait() { host_execution::copies().wait(Pending); }

inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) { host_execution::ldmatrix(r, row); }

template <class T> inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  using host_execution::Operand;
  host_execution::mma(std::is_same_v<T, __half> ? Operand::f16 : Operand::bf16, d, a, b0, b1);
}

// Kernels run one after the other.
inline void let_next_kernel_start() {}
inline void wait_for_previous_kernel() { host_execution::note_wait_for_previous_kernel(); }

} // namespace kerneldna::cuda
