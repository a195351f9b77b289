// How the depthwise kernels' launch functions cut the work.
#pragma once

#include "conv_depthwise_slab.cuh"

#include <algorithm>
#include <type_traits>

namespace kerneldna::cuda {

// use(width, step): constants of the kernel's width and of the step from column to column, which are those that
// conv_refusal.h lets through.
template <class Use> auto with_width_and_step(const Geometry &geometry, Use use) {
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 2> two;
  constexpr std::integral_constant<int, 3> three;
  constexpr std::integral_constant<int, 5> five;
  if (geometry.kernel_width == 7)
    return use(std::integral_constant<int, 7>{}, one);
  if (geometry.kernel_width == 5)
    return geometry.stride[1] == 1 ? use(five, one) : use(five, two);
  return geometry.stride[1] == 1 ? use(three, one) : use(three, two);
}

// 128 bytes of a pixel, or half of that where the last slab would be half empty.
inline SlabPlan plan_slab(int channels, int count, int element_bytes) {
  const int vectors = channels / count, most = 128 / (count * element_bytes);
  int lanes = 1;
  while (lanes < most && lanes < vectors)
    lanes *= 2;
  if (vectors > lanes && (vectors - 1) % lanes < lanes / 2)
    lanes /= 2;
  return {channels, lanes, int(ceil_divide(vectors, lanes))};
}

// Blocks that share the runs of a sample: as many as it takes for `runs_per_thread`, or to fill the GPU, but each
// with a run for every thread. `blocks` are there without sharing.
inline int plan_parts(int runs, int slots, int runs_per_thread, int64_t blocks, int device) {
  const int64_t enough = int64_t(kBlocksPerMultiprocessor) * limits_of(device).multiprocessors;
  const int64_t parts =
      std::max(ceil_divide(runs, slots * runs_per_thread), ceil_divide(enough, std::max<int64_t>(blocks, 1)));
  return int(std::min(parts, ceil_divide(runs, slots)));
}

inline Launch plan_launch(const char *kernel, int64_t blocks, size_t shared_bytes, Stream stream) {
  return {kernel, {blocks}, dim3(kDepthwiseThreads), shared_bytes, stream};
}

} // namespace kerneldna::cuda
