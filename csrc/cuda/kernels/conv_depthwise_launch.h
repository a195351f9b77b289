// How the depthwise kernels' launch functions cut the work.
#pragma once

#include "alignment.h"
#include "conv_depthwise_slab.cuh"

#include <algorithm>
#include <limits>

namespace kerneldna::cuda {

constexpr int kSharedBudget = 48 << 10; // what every GPU gives a block without asking
constexpr int kBlocksPerMultiprocessor = 4;

template <class T> constexpr int kVectorCount = 16 / int(sizeof(T));

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
