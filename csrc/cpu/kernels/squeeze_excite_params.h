// The parameters of the CPU kernels of squeeze-and-excitation. No torch here.
#pragma once

#include "conv_params.h"

namespace kerneldna::cpu {

// Sums over the pixels of each channel: sums[n, block, c] in the dtype of the arithmetic, or means where one block
// holds all pixels. Where channels are adjacent in memory a task is one block of pixels of one sample, with all its
// channels. Elsewhere it is one channel of one sample, and there is one block.
struct Pool {
  Image image;
  int64_t batch, channels;
  bool channels_adjacent;
  int64_t blocks;
  void *sums;

  int64_t tasks() const { return batch * (channels_adjacent ? blocks : channels); }
};

// y[batch, out] = x[batch, in] weight[out, in]^T + bias, with negative values set to 0 if `rectified`. The weight and
// the bias are stored in the dtype of the input, x and y in that of the arithmetic.
struct Dense {
  const void *weight, *bias; // no bias: null
  int64_t bias_stride;
  const void *x;
  void *y;
  int64_t batch, in, out;
  bool rectified;

  int64_t tasks() const { return (batch + kTile - 1) / kTile * ((out + kTile - 1) / kTile); }
  static constexpr int64_t kTile = 4; // a task is so many samples and outputs
};

// out[row, column] = sum_k left[row * left_row + k * left_step] * right[k, column], of rows x columns, out and right
// contiguous, all in the dtype of the arithmetic.
struct Matmul {
  const void *left, *right;
  void *out;
  int64_t rows, reduction, columns, left_row, left_step;

  int64_t tasks() const { return (rows + kTile - 1) / kTile; }
  static constexpr int64_t kTile = 8; // a task is so many rows
};

} // namespace kerneldna::cpu
