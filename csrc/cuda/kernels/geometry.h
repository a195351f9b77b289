// A convolution and its tensors: the parameters that every kernel of this folder takes.
#pragma once

#include "platform.h"

#include <algorithm>
#include <initializer_list>

namespace kerneldna::cuda {

// Sizes of the forward, which gradients count in too. Elements of one sample, of one map and of the weight fit into
// 32 bits; offsets that grow with the batch do not.
struct Geometry {
  int64_t batch;
  int groups;
  int in_channels, out_channels; // of all groups
  int in_height, in_width, out_height, out_width, kernel_height, kernel_width;
  int stride[2], padding[2], dilation[2];
};

// A tensor [batch, channels, height, width] whose channels are adjacent in memory. Strides in elements.
struct Image {
  void *data;
  int64_t sample_stride, row_stride, column_stride;
};

// Factors of an attention, or null where it is absent: those of sample n start at data + n * sample_stride, adjacent.
struct Scale {
  const void *data;
  int64_t sample_stride; // 0 where static
};

__host__ __device__ inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether what starts at data and at each multiple of the strides, counted in elements, starts at 16 bytes.
inline bool is_aligned(const void *data, std::initializer_list<int64_t> strides, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         std::all_of(strides.begin(), strides.end(), [&](int64_t stride) { return stride * element_bytes % 16 == 0; });
}

} // namespace kerneldna::cuda
