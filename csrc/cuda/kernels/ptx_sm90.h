// Products by the tensor cores of sm_90a, which four warps start together and which read one operand from shared memory
// while the threads go on. host_execution/wgmma.h has the same functions for the CPU.
//
// Warp w of the four has rows 16 w to 16 w + 15 of wgmma_64x16. Of these it has a as in mma 16x8x16 (ptx.h), and
// d[4 j] to d[4 j + 3] as d of mma 16x8x16, from column 8 j on.
//
// Between wgmma_fence and the wgmma_wait for a product nothing else touches its d, but other products, or its a.
#pragma once

#include "ptx.h"

#include <type_traits>

#ifdef KERNELDNA_HOST_EXECUTION

#include "host_execution/wgmma.h"

#else

namespace kerneldna::cuda {

// Before a barrier: what this thread wrote to shared memory, or copied there and waited for, can be read by products.
__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Before products that use registers which were written since the last one.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Makes the products started since the last commit, if any, a group.
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most Pending groups, the youngest, may still be under way.
template <int Pending> __device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// The numbers' type, N, and the operands: of d, of a and of b, then d itself.
#define KERNELDNA_WGMMA(number, columns, d_registers, a_registers, b_register, ...)                                    \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." number "." number " {" d_registers "}, "         \
               "{" a_registers "}, " b_register ", 1, 1, 1, 0;"                                                        \
               : __VA_ARGS__                                                                                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define KERNELDNA_WGMMA_64(number)                                                                                     \
  KERNELDNA_WGMMA(number, "64", KERNELDNA_REGISTERS_32, "%32, %33, %34, %35", "%36", KERNELDNA_SUMS(0),                \
                  KERNELDNA_SUMS(16))
#define KERNELDNA_WGMMA_128(number)                                                                                    \
  KERNELDNA_WGMMA(number, "128",                                                                                       \
                  KERNELDNA_REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "    \
                                         "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "      \
                                         "%60, %61, %62, %63",                                                         \
                  "%64, %65, %66, %67", "%68", KERNELDNA_SUMS(0), KERNELDNA_SUMS(16), KERNELDNA_SUMS(32),              \
                  KERNELDNA_SUMS(48))
#define KERNELDNA_REGISTERS_32                                                                                         \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "     \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define KERNELDNA_SUMS(i)                                                                                              \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),          \
      "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]),               \
      "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])

// Starts d += a b, of 64x16 and 16xN numbers of type T, __half or __nv_bfloat16, where d has N / 2 sums: 64 or 128
// columns. b describes where in shared memory the operand stands (matrix_descriptor).
template <class T, int Sums> __device__ inline void wgmma_64x16(float (&d)[Sums], const uint32_t (&a)[4], uint64_t b) {
  static_assert(Sums == 32 || Sums == 64);
  if constexpr (Sums == 64 && std::is_same_v<T, __half>)
    KERNELDNA_WGMMA_128("f16");
  else if constexpr (Sums == 64)
    KERNELDNA_WGMMA_128("bf16");
  else if constexpr (std::is_same_v<T, __half>)
    KERNELDNA_WGMMA_64("f16");
  else
    KERNELDNA_WGMMA_64("bf16");
}

#undef KERNELDNA_SUMS
#undef KERNELDNA_REGISTERS_32
#undef KERNELDNA_WGMMA_128
#undef KERNELDNA_WGMMA_64
#undef KERNELDNA_WGMMA

} // namespace kerneldna::cuda

#endif

namespace kerneldna::cuda {

// Describes an operand of 16-bit numbers that stands in shared memory, 64 k adjacent, with a swizzle of 128 bytes: in
// atoms of eight n of 128 bytes, one after the other, that start at multiples of 1024; row r of an atom has its 16-byte
// chunk c at place c ^ r. first: the first number of the operand, in the first row of an atom.
__device__ inline uint64_t matrix_descriptor(const void *first) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kAtomBytes = 1024;
  constexpr uint64_t kLeading = 1; // has no meaning where k is adjacent and all of a row's swizzle
  return kSwizzle128 | kAtomBytes >> 4 << 32 | kLeading << 16 | shared_address(first) >> 4;
}

} // namespace kerneldna::cuda
