// Instructions of the GPU that CUDA C++ has no name for. host_execution/ptx.h has the same functions for the CPU.
//
// Fragments, by lane of the warp, as the PTX manual lays them out (g = lane / 4, t = lane % 4):
//     mma 16x8x16   a: rows g and g + 8, columns 2t, 2t + 1 and those + 8, a pair in a register, in the order
//                      (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//                   b: rows 2t, 2t + 1 and those + 8 of column g     d: rows g, g + 8, columns 2t, 2t + 1
#pragma once

#include "platform.h"

#ifdef KERNELDNA_HOST_EXECUTION

#include "host_execution/ptx.h"

#else

namespace kerneldna::cuda {

__device__ inline uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts a copy of 16 bytes into shared memory; zeros arrive where it is not valid, and source is not read. Both ends
// are aligned to 16 bytes.
__device__ inline void cp_async(void *target, const void *source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

// Makes the copies started since the last commit, if any, a group.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most Pending of this thread's groups, the youngest, may still be under way.
template <int Pending> __device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four 8x8 matrices of 16-bit numbers; lanes 8m to 8m + 7 name the rows of matrix m, 16 bytes each, aligned to 16. Lane
// l receives in r[m] the pair (l / 4, 2 * (l % 4)) of matrix m.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b, of 16x16 and 16x8 numbers of type T, __half or __nv_bfloat16.
template <class T> __device__ inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ inline void mma_16x8x16<__half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void mma_16x8x16<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Programmatic dependent launch (launch.h): the next kernel may start, and its blocks wait here until all that the
// previous one wrote can be read. GPUs before sm_90 start a kernel only when the previous one is done.
__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

} // namespace kerneldna::cuda

#endif
