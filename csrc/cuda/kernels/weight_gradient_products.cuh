// Products of two tiles whose rows are the axis that is summed over: d[m, n] += sum_k a[k, m] b[k, n], for the weight's
// gradient, whose operands lie in memory with their channels adjacent and pixels as rows.
//
// Each struct multiplies tiles in shared memory, kBlockK rows of kBlock elements that start kPitch apart, by a block of
// kThreads threads, which hold the kBlock x kBlock results. place() says where in a tile an element is, so that lanes
// do not meet in a bank of shared memory; the 16 bytes of a vector stay together, and 8 rows on all is the same again.
#pragma once

#include "dtypes.h"
#include "ptx.h"

namespace kerneldna::cuda {

// What warps hold after products on the tensor cores: each Block / 2 rows and 32 columns, as tiles of 16x8.
template <int Block> struct WarpTiles {
  static constexpr int kRows = Block / 2 / 16, kColumns = 4;
  float sums[kRows][kColumns][4] = {};

  static __device__ int first_row() { return int(threadIdx.x) / 32 % 2 * (Block / 2); }
  static __device__ int first_column() { return int(threadIdx.x) / 64 * 32; }

  template <class Use> __device__ void each(Use use) const {
    const int row = first_row() + int(threadIdx.x) % 32 / 4, column = first_column() + int(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          use(row + 16 * r + e / 2 * 8, column + 8 * c + e % 2, sums[r][c][e]);
  }
};

// 16-bit numbers on the tensor cores. Transposed on the way from shared memory, the tiles are fragments.
template <class T, int Block> struct HalfProducts {
  using Element = T;
  static constexpr int kBlock = Block, kBlockK = 32, kPitch = Block, kThreads = 2 * Block;
  static constexpr int kBlocksPerMultiprocessor = Block == 64 ? 4 : 2;
  WarpTiles<Block> tiles;

  // 8 rows of one column of vectors in 8 different places of a row of banks.
  static __device__ int place(int k, int m) { return k * kPitch + (m ^ k % 8 * 8); }

  __device__ void add(const T *a, const T *b) {
    // The rows of matrices that a lane names to ldmatrix: those of a by (k, m) in the order (0, 0), (0, 8), (8, 0),
    // (8, 8), those of b by (k, n) in the order (0, 0), (8, 0), (0, 8), (8, 8).
    const int lane = int(threadIdx.x) % 32, row_a = lane % 8 + lane / 16 * 8, row_b = lane % 16;
    const int column_a = tiles.first_row() + lane / 8 % 2 * 8, column_b = tiles.first_column() + lane / 16 * 8;
    // 16 and 32 are bits that neither column has, so that they go through place() as they are.
    const int place_a = place(row_a, column_a), place_b = place(row_b, column_b);
#pragma unroll
    for (int k = 0; k < kBlockK; k += 16) {
      uint32_t columns[tiles.kColumns / 2][4], rows[2][4]; // these two by turns: more registers there are not
#pragma unroll
      for (int c = 0; c < tiles.kColumns / 2; ++c)
        ldmatrix_x4_trans(columns[c], b + k * kPitch + (place_b ^ 16 * c));
      ldmatrix_x4_trans(rows[0], a + k * kPitch + place_a);
#pragma unroll
      for (int r = 0; r < tiles.kRows; ++r) {
        if (r + 1 < tiles.kRows)
          ldmatrix_x4_trans(rows[(r + 1) % 2], a + k * kPitch + (place_a ^ 16 * (r + 1)));
#pragma unroll
        for (int c = 0; c < tiles.kColumns; ++c)
          mma_16x8x16<T>(tiles.sums[r][c], rows[r % 2], columns[c / 2][c % 2 * 2], columns[c / 2][c % 2 * 2 + 1]);
      }
    }
  }

  template <class Use> __device__ void each(Use use) const { tiles.each(use); }
};

// float32 on the tensor cores, rounded to TF32.
struct Tf32Products {
  using Element = float;
  static constexpr int kBlock = 64, kBlockK = 16, kPitch = kBlock + 8, kThreads = 2 * kBlock;
  static constexpr int kBlocksPerMultiprocessor = 4;
  WarpTiles<kBlock> tiles;

  static __device__ int place(int k, int m) { return k * kPitch + m; }

  __device__ void add(const float *a, const float *b) {
    const int lane = int(threadIdx.x) % 32;
    a += place(lane % 4, tiles.first_row() + lane / 4);
    b += place(lane % 4, tiles.first_column() + lane / 4);
#pragma unroll
    for (int k = 0; k < kBlockK; k += 8) {
      uint32_t rows[tiles.kRows][4];
#pragma unroll
      for (int r = 0; r < tiles.kRows; ++r)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          rows[r][e] = to_tf32(a[(k + e / 2 * 4) * kPitch + 16 * r + e % 2 * 8]);
#pragma unroll
      for (int c = 0; c < tiles.kColumns; ++c) {
        const uint32_t b0 = to_tf32(b[k * kPitch + 8 * c]), b1 = to_tf32(b[(k + 4) * kPitch + 8 * c]);
#pragma unroll
        for (int r = 0; r < tiles.kRows; ++r)
          mma_16x8x8_tf32(tiles.sums[r][c], rows[r], b0, b1);
      }
    }
  }

  template <class Use> __device__ void each(Use use) const { tiles.each(use); }
};

} // namespace kerneldna::cuda
