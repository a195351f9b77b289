// How the depthwise kernels' launch functions cut the work.
#pragma once

#include "conv_depthwise_slab.cuh"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace kerneldna::cuda {

constexpr int kSharedBudget = 48 << 10; // what every GPU gives a block without asking
constexpr int kBlocksPerMultiprocessor = 4;

template <class T> constexpr int kVectorCount = 16 / int(sizeof(T));

// Whether pixels of a height x width map start at multiples of `count` elements, 16 bytes.
inline bool is_aligned(const Image &image, int64_t batch, int height, int width, int count) {
  const auto fits = [&](int64_t size, int64_t stride) { return size <= 1 || stride % count == 0; };
  return reinterpret_cast<uintptr_t>(image.data) % 16 == 0 && fits(batch, image.sample_stride) &&
         fits(height, image.row_stride) && fits(width, image.column_stride);
}

// Offsets within a row, of which kernels compute several at once.
inline bool rows_fit_int(const Image &image, int width) {
  return width * image.column_stride <= std::numeric_limits<int>::max();
}

// 128 bytes of a pixel, or half of that where the last slab would be half empty.
inline SlabPlan plan_slab(int channels, int count, int element_bytes) {
  const int vectors = int(ceil_divide(channels, count)), most = count > 1 ? 128 / (count * element_bytes) : 32;
  int lanes = 1;
  while (lanes < most && lanes < vectors)
    lanes *= 2;
  if (vectors > lanes && (vectors - 1) % lanes < lanes / 2)
    lanes /= 2;
  return {channels, lanes, int(ceil_divide(vectors, lanes))};
}

// Blocks that share the runs of a sample: as many as it takes for `turns` runs a thread, or to fill the GPU, but each
// with a run for every thread. `blocks` are there without sharing.
inline int plan_parts(int runs, int slots, int turns, int64_t blocks, int device) {
  const int64_t enough = int64_t(kBlocksPerMultiprocessor) * limits_of(device).multiprocessors;
  const int64_t parts = std::max(ceil_divide(runs, slots * turns), ceil_divide(enough, std::max<int64_t>(blocks, 1)));
  return int(std::min(parts, ceil_divide(runs, slots)));
}

inline Launch plan_launch(const char *kernel, int64_t blocks, size_t shared_bytes, Stream stream) {
  return {kernel, {blocks}, dim3(kDepthwiseThreads), shared_bytes, stream};
}

} // namespace kerneldna::cuda
