// The products of conv_gemm.cuh by the tensor cores of sm_90a, for 16-bit numbers, with the members that tile_math.cuh
// lists. Each of two groups of four warps has 64 rows of the tile. A goes through registers, where it is scaled; the
// tensor cores read B from shared memory themselves, behind the threads, which meanwhile prepare the next products.
//
// B is stored in the layout of the PTX manual with a swizzle of 128 bytes: rows of 128 bytes, of 64 k of one n; eight
// rows are an atom of 1024 bytes, in which row r has its 16-byte chunk c at place c ^ r. So neither the copies to it
// nor the reads from it meet in a bank.
//
// By the machine code for sm_90a, 128x256x64 scaled products take 1088 cycles of a multiprocessor's shared memory,
// where the rows of a warp are of one sample (row_factors.cuh), beside 1024 of its tensor cores; 128x128x64 take 704
// beside 512, and 128x64x64 take 512 beside 256, for which mma.sync takes 608 and, at the 62 % of the rate that it is
// said to reach there, 413. Not verified on a GPU.
#pragma once

#include "dtypes.h"
#include "ptx_sm90.h"
#include "row_factors.cuh"

namespace kerneldna::cuda {

template <class T_, int BlockN_> class WgmmaMath {
public:
  using T = T_;
  static constexpr int kBlockM = 128, kBlockN = BlockN_, kBlockK = 64;
  static constexpr int kThreads = 256;
  static constexpr int kLdA = kBlockK + 8, kLdB = kBlockK;
  static constexpr int kStepsInFlight = 1;
  static constexpr int kStageAlignment = 1024 / sizeof(T); // of B's atoms
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static constexpr bool kIsCompiled = false;
#else
  static constexpr bool kIsCompiled = true;
#endif

  __device__ static int at_b(int row, int column) { return row * kLdB + (column / 8 ^ row % 8) * 8 + column % 8; }

  __device__ explicit WgmmaMath(const TileRow *rows) : factors(rows + warp_row()) {
#pragma unroll
    for (int i = 0; i < kParts; ++i)
#pragma unroll
      for (int e = 0; e < kSums; ++e)
        sums[i][e] = 0;
  }

  __device__ static void publish() { fence_proxy_async(); }

  // Leaves the last products under way: they still read b.
  template <bool Scaled> __device__ void step(const T *a, const T *b, const int *places, const T *scale) {
    const T *const row = a + (warp_row() + threadIdx.x % 16) * kLdA + threadIdx.x % 32 / 16 * 8;
    const bool one_sample = Scaled && factors.are_of_one_sample();
    if (one_sample)
      factors.template begin_step<true>(places + warp_row(), scale);
    else if (Scaled)
      factors.template begin_step<false>(places + warp_row(), scale);
#pragma unroll
    for (int i = 0; i < kBlockK / 16; ++i) {
      // The product before the last kFragments - 1 is done, and with it what it read.
      wgmma_wait<kFragments - 1>();
      uint32_t (&fragment)[4] = fragments[i % kFragments];
      ldmatrix_x4(fragment, row + i * 16);
      if (one_sample) {
        factors.template load<true>(i * 16);
        factors.template multiply<true>(fragment, 0, i * 16);
      } else if (Scaled) {
        factors.template multiply<false>(fragment, 0, i * 16);
      }
      wgmma_fence();
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        wgmma_64x16<T>(sums[part], fragment, matrix_descriptor(b + part * kPart * kLdB + i * 16));
      }
      wgmma_commit();
    }
  }

  __device__ static void finish() { wgmma_wait<0>(); }

  __device__ void store(float *target, int ld) const {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
      for (int e = 0; e < kSums; ++e)
        target[(row + e / 2 % 2 * 8) * ld + part * kPart + e / 4 * 8 + column + e % 2] = sums[part][e];
  }

private:
  static constexpr int kPart = kBlockN < 128 ? 64 : 128; // columns of a product
  static constexpr int kParts = kBlockN / kPart, kSums = kPart / 2;
  // Registers decide: of the tiles with 128 columns two are on a multiprocessor.
  static constexpr int kFragments = kBlockN == 128 ? 2 : 4;
  static_assert(sizeof(T) == 2 && kBlockK * sizeof(T) == 128 && kBlockN % kPart == 0);

  __device__ static int warp_row() { return threadIdx.x / 32 * 16; }

  RowFactors<T, 1, kLdA> factors;
  uint32_t fragments[kFragments][4];
  float sums[kParts][kSums];
};

} // namespace kerneldna::cuda
