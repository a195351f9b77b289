// The kernels of weight_fold.h. Neighbouring threads have neighbouring channels, in which V and dV are contiguous.
#pragma once

#include "weight_fold.h"

namespace kerneldna::cuda {

constexpr int kWeightFoldThreads = 256;

// A static attention's factor, 1 where there is none.
template <class T> __device__ inline float factor_of(const void *attention, int index) {
  return attention ? to_compute(static_cast<const T *>(attention)[index]) : 1.0f;
}

__host__ __device__ inline int64_t element_of(const Weight &weight, int filter, int channel, int height, int width) {
  return filter * weight.filter_stride + channel * weight.channel_stride + height * weight.height_stride +
         width * weight.width_stride;
}

// Each thread has a filter's channel and goes through its taps, which are near each other in memory, whatever the
// strides.
template <class T>
__global__ void __launch_bounds__(kWeightFoldThreads, 4) fold_weight_kernel(const WeightFold p, T *folded) {
  const Geometry &g = p.geometry;
  const int channels = g.in_channels / g.groups, taps = g.kernel_height * g.kernel_width;
  const unsigned index = blockIdx.x * kWeightFoldThreads + threadIdx.x;
  if (index >= unsigned(g.out_channels) * unsigned(channels))
    return;
  const int o = int(index / unsigned(channels)), i = int(index % unsigned(channels)),
            group = o / (g.out_channels / g.groups);
  const float f = factor_of<T>(p.filter, o), c = factor_of<T>(p.channel, group * channels + i);
  const T *const weight = static_cast<const T *>(p.weight.data) + element_of(p.weight, o, i, 0, 0);
  folded += int64_t(o) * taps * channels + i;
  for (int u = 0, t = 0; u < g.kernel_height; ++u)
    for (int v = 0; v < g.kernel_width; ++v, ++t) {
      const float value = to_compute(weight[element_of(p.weight, 0, 0, u, v)]);
      folded[t * channels] = from_compute<T>(value * f * factor_of<T>(p.spatial, t) * c);
    }
}

// A warp of unfold_weight has 32 channels, one tap and some filters of a group.
constexpr int kUnfoldFilters = 8;

struct UnfoldUnits {
  int channels, filters, taps, groups; // blocks of 32 channels and of kUnfoldFilters filters, of a group
};
__host__ __device__ inline UnfoldUnits unfold_units(const Geometry &g) {
  return {int(ceil_divide(g.in_channels / g.groups, 32)), int(ceil_divide(g.out_channels / g.groups, kUnfoldFilters)),
          g.kernel_height * g.kernel_width, g.groups};
}

// Where each warp leaves its sums, which ordered_sum adds up. Null where the gradient is not wanted.
struct UnfoldSums {
  float *filter;  // [taps, blocks of channels, C_out]
  float *spatial; // [groups, blocks of filters, blocks of channels, taps]
  float *channel; // [blocks of filters, taps, C_in]
};

__device__ inline float sum_over_warp(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffff, value, distance);
  return value;
}

template <class T>
__global__ void __launch_bounds__(kWeightFoldThreads)
    unfold_weight_kernel(const WeightUnfold p, const UnfoldSums sums) {
  const Geometry &g = p.fold.geometry;
  const UnfoldUnits units = unfold_units(g);
  const int channels = g.in_channels / g.groups, filters = g.out_channels / g.groups;
  const int lane = int(threadIdx.x) % 32;
  unsigned unit = blockIdx.x * (kWeightFoldThreads / 32) + threadIdx.x / 32;
  const auto next = [&](int size) {
    const int digit = int(unit % unsigned(size));
    unit /= unsigned(size);
    return digit;
  };
  const int channel_block = next(units.channels), tap = next(units.taps), filter_block = next(units.filters);
  if (unit >= unsigned(units.groups))
    return;
  const int group = int(unit), i = channel_block * 32 + lane,
            last = min(filters - filter_block * kUnfoldFilters, kUnfoldFilters);
  const bool exists = i < channels;

  const T *const weight = static_cast<const T *>(p.fold.weight.data);
  T *const grad_weight = static_cast<T *>(p.grad_weight.data);
  const bool wants_sums = sums.filter || sums.spatial || sums.channel;
  const float s = factor_of<T>(p.fold.spatial, tap);
  const float c = exists ? factor_of<T>(p.fold.channel, group * channels + i) : 0.0f;
  const int u = tap / g.kernel_width, v = tap % g.kernel_width, first = group * filters + filter_block * kUnfoldFilters;

  float grads[kUnfoldFilters] = {}; // of all filters at once, so that many reads are under way
  const int64_t filter_size = int64_t(units.taps) * channels, part_size = g.out_channels * filter_size;
  const int64_t at = first * filter_size + int64_t(tap) * channels + i;
  if (exists)
#pragma unroll 4 // parts whose reads are under way together
    for (int part = 0; part < p.parts; ++part)
#pragma unroll
      for (int k = 0; k < kUnfoldFilters; ++k)
        if (k < last)
          grads[k] += p.partial[part * part_size + at + k * filter_size];

  float of_tap = 0, of_channel = 0;
#pragma unroll
  for (int k = 0; k < kUnfoldFilters; ++k) {
    if (k >= last)
      break;
    const int o = first + k;
    const float f = factor_of<T>(p.fold.filter, o);
    float product = 0;
    if (exists) {
      if (grad_weight)
        grad_weight[element_of(p.grad_weight, o, i, u, v)] = from_compute<T>(grads[k] * f * s * c);
      if (wants_sums)
        product = grads[k] * to_compute(weight[element_of(p.fold.weight, o, i, u, v)]);
      of_tap += product * f * c;
      of_channel += product * f * s;
    }
    if (sums.filter) {
      const float total = sum_over_warp(exists ? product * s * c : 0.0f);
      if (lane == 0)
        sums.filter[(int64_t(tap) * units.channels + channel_block) * g.out_channels + o] = total;
    }
  }
  if (sums.channel && exists)
    sums.channel[(int64_t(filter_block) * units.taps + tap) * g.in_channels + group * channels + i] = of_channel;
  if (sums.spatial) {
    const float total = sum_over_warp(of_tap);
    if (lane == 0)
      sums.spatial[((int64_t(group) * units.filters + filter_block) * units.channels + channel_block) * units.taps +
                   tap] = total;
  }
}

} // namespace kerneldna::cuda
