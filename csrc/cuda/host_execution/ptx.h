// The functions of kernels/ptx.h for the CPU.
#pragma once

#include "copies.h"
#include "instructions.h"
#include "runtime.h"

#include <bit>
#include <type_traits>

namespace kerneldna::cuda {

inline uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(static_cast<const std::byte *>(pointer) - host_execution::shared_memory());
}

template <int Bytes> inline void cp_async(void *target, const void *source, bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  host_execution::copies().start(target, source, Bytes, valid);
}
inline void cp_async_commit() { host_execution::copies().commit(); }
template <int Pending> inline void cp_async_wait() { host_execution::copies().wait(Pending); }

inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) { host_execution::ldmatrix(r, row, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) { host_execution::ldmatrix(r, row, true); }

template <class T> inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  using host_execution::Operand;
  host_execution::mma(std::is_same_v<T, __half> ? Operand::f16 : Operand::bf16, d, a, b0, b1);
}

// To the nearest, ties away from zero: a carry out of the mantissa is right, also into infinity.
inline uint32_t to_tf32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return value != value ? 0x7fffffff : (bits + 0x1000) & ~0x1fffu;
}
inline void mma_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  host_execution::mma(host_execution::Operand::tf32, d, a, b0, b1);
}

// Kernels run one after the other.
inline void let_next_kernel_start() {}
inline void wait_for_previous_kernel() { host_execution::note_wait_for_previous_kernel(); }

} // namespace kerneldna::cuda
