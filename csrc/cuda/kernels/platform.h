// What the source of a kernel needs of CUDA: from CUDA itself, or from tests/cuda/host_execution, which runs the same
// source on the CPU for tests. Everything in this folder compiles as both and knows nothing of torch.
//
// A kernel keeps to what both offer:
//     * dynamic shared memory only, named by KERNELDNA_SHARED(name), an unsigned char *;
//     * instructions that CUDA C++ does not name through ptx.h, arithmetic of 16-bit numbers through dtypes.h;
//     * __syncthreads, __syncwarp, __shfl_sync, __shfl_xor_sync and __shfl_down_sync, in which all 32 lanes take part.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef KERNELDNA_HOST_EXECUTION

#include "host_execution/cuda.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// 1024 bytes: what the tensor cores of sm_90a read themselves starts there.
#define KERNELDNA_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

#endif
