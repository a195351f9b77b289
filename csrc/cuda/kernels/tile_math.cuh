// How the threads of a block multiply two tiles in shared memory: by 16-bit tensor cores or by TF32 tensor cores. Both
// have the same members, and conv_gemm.cuh is written in terms of them; so has the way of sm_90a, conv_gemm_wgmma.cuh.
//
//     D[m, n] += sum_k A[m, k] * scale[sample of m, k] * B[k, n]
//
// A is stored [BlockM][kLdA], k adjacent. B is stored [BlockN][kLdB] with k adjacent, or, where Transposed,
// [BlockK][kLdB] with n adjacent. The leading dimensions are padded so that the lanes of a warp read from different
// banks. rows: what is known of the tile's rows.
#pragma once

#include "dtypes.h"
#include "ptx.h"
#include "row_factors.cuh"
#include "shared_banks.h"

namespace kerneldna::cuda {

// Products that are done when step returns, of what the threads read themselves.
struct ImmediateMath {
  static constexpr bool kIsCompiled = true; // for the GPU that is being compiled for
  static constexpr int kStepsInFlight = 0;  // that step may leave to be done
  static constexpr int kStageAlignment = 8; // of tiles, in numbers: vectors of 16 bytes
  __device__ static void publish() {}       // before the barrier after which others multiply what was loaded
  __device__ static void finish() {}        // before the barrier after the last step: all are done
};

// Sums of the tensor cores, of which a warp has a part of the tile in fragments of 16x8 (ptx.h).
template <int BlockM_, int BlockN_, int BlockK_, int WarpsM, int WarpsN> class FragmentMath : public ImmediateMath {
public:
  static constexpr int kBlockM = BlockM_, kBlockN = BlockN_, kBlockK = BlockK_;
  static constexpr int kThreads = WarpsM * WarpsN * 32;

  __device__ explicit FragmentMath(const TileRow * /*rows*/) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          sums[i][j][e] = 0;
  }

  __device__ void store(float *target, int ld) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          target[row_of(i, e / 2) * ld + warp_n() * kWarpN + j * 8 + threadIdx.x % 4 * 2 + e % 2] = sums[i][j][e];
  }

protected:
  static constexpr int kWarpM = BlockM_ / WarpsM, kWarpN = BlockN_ / WarpsN;
  static constexpr int kRows = kWarpM / 16, kColumns = kWarpN / 8;
  static_assert(kWarpM % 16 == 0 && kWarpN % 8 == 0);

  __device__ static int warp_m() { return threadIdx.x / 32 % WarpsM; }
  __device__ static int warp_n() { return threadIdx.x / 32 / WarpsM; }
  __device__ static int row_of(int i, int half) { return warp_m() * kWarpM + i * 16 + half * 8 + threadIdx.x % 32 / 4; }

  float sums[kRows][kColumns][4];
};

template <class T_, int BlockM_, int BlockN_, int BlockK_, int WarpsM, int WarpsN, bool Transposed>
class TensorMath : public FragmentMath<BlockM_, BlockN_, BlockK_, WarpsM, WarpsN> {
  using Fragments = FragmentMath<BlockM_, BlockN_, BlockK_, WarpsM, WarpsN>;
  using Fragments::kRows, Fragments::kColumns, Fragments::kWarpM, Fragments::kWarpN, Fragments::sums;
  using Fragments::warp_m, Fragments::warp_n, Fragments::row_of;

public:
  using Fragments::kBlockK;
  using T = T_;
  static constexpr int kLdA = BlockK_ + 8, kLdB = (Transposed ? BlockN_ : BlockK_) + 8;
  __device__ static int at_b(int row, int column) { return row * kLdB + column; }

  __device__ explicit TensorMath(const TileRow *rows) : Fragments(rows), factors(rows + warp_m() * kWarpM) {}

  template <bool Scaled> __device__ void step(const T *a, const T *b, const int *places, const T *scale) {
    if (Scaled && factors.are_of_one_sample())
      multiply<Scaled, true>(a, b, places, scale);
    else
      multiply<Scaled, false>(a, b, places, scale);
  }

private:
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
        if (Transposed)
          ldmatrix_x4_trans(b_fragments[j], b + (k + lane % 16) * kLdB + n + lane / 16 * 8);
        else
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

  static_assert(sizeof(T) == 2 && BlockK_ % 16 == 0 && kWarpN % 16 == 0);
  // Eight rows of A or B, 16 bytes each, meet in no bank.
  static_assert(kLdA % 8 == 0 && bank_passes(4, [](int lane) { return lane * kLdA / 2; }) == 4);
  static_assert(kLdB % 8 == 0 && bank_passes(4, [](int lane) { return lane * kLdB / 2; }) == 4);

  // The row that this lane names to ldmatrix.
  __device__ static int named_row(int i) { return warp_m() * kWarpM + i * 16 + threadIdx.x % 16; }

  RowFactors<T, kRows, kLdA> factors;
};

template <int BlockM_, int BlockN_, int BlockK_, int WarpsM, int WarpsN, bool Transposed>
class Tf32Math : public FragmentMath<BlockM_, BlockN_, BlockK_, WarpsM, WarpsN> {
  using Fragments = FragmentMath<BlockM_, BlockN_, BlockK_, WarpsM, WarpsN>;
  using Fragments::kRows, Fragments::kColumns, Fragments::kWarpM, Fragments::kWarpN, Fragments::sums;
  using Fragments::warp_m, Fragments::warp_n, Fragments::row_of;

public:
  using Fragments::Fragments;
  using Fragments::kBlockK;
  using T = float;
  static constexpr int kLdA = BlockK_ + 4, kLdB = Transposed ? BlockN_ + 8 : BlockK_ + 4;
  __device__ static int at_b(int row, int column) { return row * kLdB + column; }

  template <bool Scaled> __device__ void step(const float *a, const float *b, const int *places, const float *scale) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float *factor_row[2 * kRows];
#pragma unroll
    for (int i = 0; i < 2 * kRows; ++i)
      if (Scaled)
        factor_row[i] = scale + places[row_of(i / 2, i % 2)];
#pragma unroll
    for (int k = 0; k < kBlockK; k += 8) {
      uint32_t b_fragments[kColumns][2];
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const int n = warp_n() * kWarpN + j * 8 + g, at = k + t + 4 * side;
          b_fragments[j][side] = to_tf32(Transposed ? b[at * kLdB + n] : b[n * kLdB + at]);
        }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        uint32_t a_fragment[4];
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int side = 0; side < 2; ++side) {
            const int at = k + t + 4 * side;
            float value = a[row_of(i, half) * kLdA + at];
            if (Scaled)
              value *= factor_row[2 * i + half][at];
            a_fragment[half + 2 * side] = to_tf32(value);
          }
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
          mma_16x8x8_tf32(sums[i][j], a_fragment, b_fragments[j][0], b_fragments[j][1]);
      }
    }
  }

private:
  static_assert(BlockK_ % 8 == 0);
};

} // namespace kerneldna::cuda
