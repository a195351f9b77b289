// How the threads of a block multiply two tiles in shared memory by 16-bit tensor cores; the way of sm_90a, with the
// same members, is in conv_gemm_wgmma.cuh.
//
//     D[m, n] += sum_k A[m, k] * scale[sample of m, k] * B[k, n]
//
// A is stored [BlockM][kLdA] and B [BlockN][kLdB], both with k adjacent. The leading dimensions are padded so that the
// lanes of a warp read from different banks. rows: what is known of the tile's rows.
#pragma once

#include "dtypes.h"
#include "ptx.h"
#include "row_factors.cuh"
#include "shared_banks.h"

namespace kerneldna::cuda {

// Sums of the tensor cores, of which a warp has a part of the tile in fragments of 16x8 (ptx.h).
template <class T_, int BlockM_, int BlockN_, int BlockK_, int WarpsM, int WarpsN> class TensorMath {
public:
  using T = T_;
  static constexpr int kBlockM = BlockM_, kBlockN = BlockN_, kBlockK = BlockK_;
  static constexpr int kThreads = WarpsM * WarpsN * 32;
  static constexpr int kLdA = kBlockK + 8, kLdB = kBlockK + 8;
  static constexpr bool kIsCompiled = true; // for the GPU that is being compiled for
  static constexpr int kStepsInFlight = 0;  // that step may leave to be done
  static constexpr int kStageAlignment = 8; // of tiles, in numbers: vectors of 16 bytes
  __device__ static int at_b(int row, int column) { return row * kLdB + column; }

  __device__ explicit TensorMath(const TileRow *rows) : factors(rows + warp_m() * kWarpM) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          sums[i][j][e] = 0;
  }

  __device__ static void publish() {} // before the barrier after which others multiply what was loaded
  __device__ static void finish() {}  // before the barrier after the last step: all products are done

  __device__ void store(float *target, int ld) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          target[row_of(i, e / 2) * ld + warp_n() * kWarpN + j * 8 + threadIdx.x % 4 * 2 + e % 2] = sums[i][j][e];
  }

  template <bool Scaled> __device__ void step(const T *a, const T *b, const int *places, const T *scale) {
    if (Scaled && factors.are_of_one_sample())
      multiply<Scaled, true>(a, b, places, scale);
    else
      multiply<Scaled, false>(a, b, places, scale);
  }

private:
  static constexpr int kWarpM = kBlockM / WarpsM, kWarpN = kBlockN / WarpsN;
  static constexpr int kRows = kWarpM / 16, kColumns = kWarpN / 8;
  static_assert(sizeof(T) == 2 && kBlockK % 16 == 0 && kWarpM % 16 == 0 && kWarpN % 16 == 0);
  // Eight rows of A or B, 16 bytes each, meet in no bank.
  static_assert(kLdA % 8 == 0 && bank_passes(4, [](int lane) { return lane * kLdA / 2; }) == 4 && kLdB == kLdA);

  __device__ static int warp_m() { return threadIdx.x / 32 % WarpsM; }
  __device__ static int warp_n() { return threadIdx.x / 32 / WarpsM; }
  __device__ static int row_of(int i, int half) { return warp_m() * kWarpM + i * 16 + half * 8 + threadIdx.x % 32 / 4; }
  // The row that this lane names to ldmatrix.
  __device__ static int named_row(int i) { return warp_m() * kWarpM + i * 16 + threadIdx.x % 16; }

  template <bool Scaled, bool OneSample>
  __device__ void multiply(const T *a, const T *b, const int *places, const T *scale) {
    const int lane = threadIdx.x % 32;
    if (Scaled)
      factors.template begin_step<OneSample>(places + warp_m() * kWarpM, scale);
    // Unrolled, the loads of the second half are brought so far forward that registers run out.
#pragma unroll 1
    for (int k = 0; k < kBlockK; k += 16) {
      uint32_t b_fragments[kColumns / 2][4];
#pragma unroll
      for (int j = 0; j < kColumns / 2; ++j) {
        const int n = warp_n() * kWarpN + j * 16;
        ldmatrix_x4(b_fragments[j], b + (n + lane % 8 + lane / 16 * 8) * kLdB + k + lane / 8 % 2 * 8);
      }
      if (Scaled)
        factors.template load<OneSample>(k);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        uint32_t a_fragment[4];
        ldmatrix_x4(a_fragment, a + named_row(i) * kLdA + k + lane / 16 * 8);
        if (Scaled)
          factors.template multiply<OneSample>(a_fragment, i, k);
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
          mma_16x8x16<T>(sums[i][j], a_fragment, b_fragments[j / 2][j % 2 * 2], b_fragments[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  float sums[kRows][kColumns][4];
  RowFactors<T, kRows, kLdA> factors;
};

} // namespace kerneldna::cuda
