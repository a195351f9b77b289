// All gradients of a depthwise convolution but that of its input, from the correlation D (conv_depthwise.h).
//
// A block has a slab of channels, a part of the pixels and a range of the samples, which it takes one after another. It
// goes over the pixels in passes, a few taps each, so that their D stays in registers; x and gy come from the cache
// from the second pass on. After a pass the threads of a lane put their D together in shared memory, and one thread for
// each channel adds what it makes of it to all gradients: dW stays in the block until the last sample, the others until
// the last sample only where the attention is static.
//
// Where there are very many taps, blocks share them (groups of passes).
#pragma once

#include "conv_depthwise_slab.cuh"

namespace kerneldna::cuda {

struct DepthwiseGradsPlan {
  SlabPlan slab; // of output channels
  int groups, passes, passes_per_group;
  int parts, runs_per_row, runs, runs_per_part; // as in DepthwisePlan; a run is one pixel where taps are not known
  int ranges, samples_per_range;
  // Of the type that sums run in. Rows before the samples are parts, or slabs * parts; samples are ranges where the
  // attention is static.
  void *weight;           // [parts, ranges, taps, C_out]
  void *channel, *filter; // [groups * parts, samples, C_out]
  void *spatial;          // [slabs * parts, samples, taps]
};

constexpr int kPassTaps = 4; // where the width of the kernel is not known

// The taps of a pass, counted from its first one, and the pixels of a run.
template <int KernelWidth, int Step> struct PassShape {
  static constexpr int kTaps = KernelWidth > 0 ? KernelWidth : kPassTaps;
  static constexpr int kPixels = KernelWidth > 0 ? 4 : 1;
};

template <class T, int Count, int KernelWidth, int Step> class DepthwiseCorrelation {
public:
  using C = compute_t<T>;
  using Shape = PassShape<KernelWidth, Step>;
  static constexpr int kTaps = Shape::kTaps, kPixels = Shape::kPixels;

  __device__ DepthwiseCorrelation(const DepthwiseGrads &grads, const DepthwiseGradsPlan &plan, const Slab<Count> &slab,
                                  int first_run, int last_run)
      : grads(grads), plan(plan), slab(slab), first_run(first_run), last_run(last_run) {}

  // D of the taps from first_tap on, over this thread's pixels of a sample.
  __device__ void run(C (&sums)[kTaps][Count], int64_t sample, int first_tap) const {
#pragma unroll
    for (int t = 0; t < kTaps; ++t)
#pragma unroll
      for (int k = 0; k < Count; ++k)
        sums[t][k] = 0;
    if (slab.channel >= plan.slab.channels)
      return;
    const Geometry &geometry = grads.geometry;
    const Image &input = grads.input, &grad = grads.grad_output;
    const T *const x = static_cast<const T *>(input.data) + sample * input.sample_stride +
                       slab.channel / (geometry.out_channels / geometry.in_channels);
    const T *const gy = static_cast<const T *>(grad.data) + sample * grad.sample_stride + slab.channel;
    for (int i = first_run + slab.slot; i < last_run; i += slab.slots) {
      const int row = i / plan.runs_per_row, column = i % plan.runs_per_row * kPixels;
      if constexpr (KernelWidth > 0)
        add_run(sums, x, gy + row * grad.row_stride, row, column, first_tap / KernelWidth);
      else
        add_pixel(sums, x, gy + row * grad.row_stride + column * grad.column_stride, row, column, first_tap);
    }
  }

private:
  // One row of the kernel.
  __device__ void add_run(C (&sums)[kTaps][Count], const T *x, const T *gy, int row, int column, int u) const {
    constexpr int kColumns = (kPixels - 1) * Step + kTaps;
    const Geometry &geometry = grads.geometry;
    const int y = row * geometry.stride[0] + u * geometry.dilation[0] - geometry.padding[0];
    if (y < 0 || y >= geometry.in_height)
      return;
    const int x_stride = int(grads.input.column_stride), gy_stride = int(grads.grad_output.column_stride);
    const int first = column * Step - geometry.padding[1];
    x += y * grads.input.row_stride;
    Lanes<T, Count> source[kColumns], grad[kPixels];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      source[j] = Lanes<T, Count>{};
      if (first + j >= 0 && first + j < geometry.in_width)
        source[j] = load<T, Count>(x + (first + j) * x_stride);
    }
#pragma unroll
    for (int pixel = 0; pixel < kPixels; ++pixel)
      if (column + pixel < geometry.out_width)
        grad[pixel] = load<T, Count>(gy + (column + pixel) * gy_stride);
#pragma unroll
    for (int pixel = 0; pixel < kPixels; ++pixel)
      if (column + pixel < geometry.out_width) { // beyond it, source may be infinite
        C g[Count];
        unpack(grad[pixel], g);
#pragma unroll
        for (int v = 0; v < kTaps; ++v) {
          C values[Count];
          unpack(source[pixel * Step + v], values);
#pragma unroll
          for (int k = 0; k < Count; ++k)
            sums[v][k] += g[k] * values[k];
        }
      }
  }

  __device__ void add_pixel(C (&sums)[kTaps][Count], const T *x, const T *gy, int row, int column,
                            int first_tap) const {
    const Geometry &geometry = grads.geometry;
    C g[Count];
    unpack(load<T, Count>(gy), g);
    int u = first_tap / geometry.kernel_width, v = first_tap % geometry.kernel_width;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const int y = row * geometry.stride[0] + u * geometry.dilation[0] - geometry.padding[0];
      const int at = column * geometry.stride[1] + v * geometry.dilation[1] - geometry.padding[1];
      if (u < geometry.kernel_height && y >= 0 && y < geometry.in_height && at >= 0 && at < geometry.in_width) {
        C values[Count];
        unpack(load<T, Count>(x + y * grads.input.row_stride + at * grads.input.column_stride), values);
#pragma unroll
        for (int k = 0; k < Count; ++k)
          sums[t][k] += g[k] * values[k];
      }
      if (++v == geometry.kernel_width) {
        v = 0;
        ++u;
      }
    }
  }

  const DepthwiseGrads &grads;
  const DepthwiseGradsPlan &plan;
  const Slab<Count> &slab;
  int first_run, last_run;
};

template <class T, int Count, int KernelWidth, int Step>
__global__ void __launch_bounds__(kDepthwiseThreads, KernelWidth > 3 || Step > 1 ? 3 : 4)
    depthwise_grads_kernel(DepthwiseGrads grads, DepthwiseGradsPlan plan) {
  using C = compute_t<T>;
  using Correlation = DepthwiseCorrelation<T, Count, KernelWidth, Step>;
  constexpr int kTaps = Correlation::kTaps, kWarps = kDepthwiseThreads / 32;
  const Geometry &geometry = grads.geometry;
  const Slab<Count> slab(plan.slab, blockIdx.x);
  const unsigned groups = plan.groups, parts = plan.parts;
  unsigned rest = blockIdx.x / plan.slab.slabs;
  const int group = rest % groups, part = rest / groups % parts, range = rest / groups / parts;
  const int first_pass = group * plan.passes_per_group;
  const int last_pass = min(first_pass + plan.passes_per_group, plan.passes);
  const int first_run = part * plan.runs_per_part, last_run = min(first_run + plan.runs_per_part, plan.runs);
  const int64_t first_sample = int64_t(range) * plan.samples_per_range;
  const int64_t last_sample = min(first_sample + plan.samples_per_range, geometry.batch);
  const int taps = geometry.kernel_height * geometry.kernel_width, slab_channels = slab.channels(plan.slab);

  KERNELDNA_SHARED(shared);
  C *const correlation = reinterpret_cast<C *>(shared);                 // [kTaps][slots][slab]
  C *const warp_sums = correlation + kTaps * kDepthwiseThreads * Count; // [kTaps][kWarps]
  C *const spatial_sums = warp_sums + kTaps * kWarps;                   // [taps of the group]
  C *const weight_sums = spatial_sums + plan.passes_per_group * kTaps;  // [taps of the group][slab]

  // The thread's channel from here on, if it has one: that of the slab which its index says.
  const int local = threadIdx.x, channel = slab.first_channel + local;
  const bool owns = local < slab_channels && channel < plan.slab.channels;
  const int in_channel = channel / (geometry.out_channels / geometry.in_channels);
  C channel_sum = 0, filter_sum = 0;

  const Correlation correlate(grads, plan, slab, first_run, last_run);
  for (int64_t sample = first_sample; sample < last_sample; ++sample) {
    const bool is_first = sample == first_sample, is_last = sample + 1 == last_sample;
    const C c = owns ? scale_at<T>(grads.channel, sample, in_channel) : C(0);
    const C f = owns ? scale_at<T>(grads.filter, sample, channel) : C(0);
    C energy = 0; // E
    for (int pass = first_pass; pass < last_pass; ++pass) {
      const int first_tap = pass * kTaps, kept = (pass - first_pass) * kTaps; // kept: its place in the block's sums
      C sums[kTaps][Count];
      correlate.run(sums, sample, first_tap);
      SlabRows<C, Count> rows(correlation, plan.slab);
#pragma unroll
      for (int t = 0; t < kTaps; ++t)
        rows.put(t * slab.slots + slab.slot, slab.lane, sums[t]);
      __syncthreads();

#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        const int tap = first_tap + t;
        C spatial = 0;
        if (owns && tap < taps) {
          C d = 0;
          for (int slot = 0; slot < slab.slots; ++slot)
            d += rows.get(t * slab.slots + slot, local);
          const C w = weight_at<T>(grads.weight, channel, tap / geometry.kernel_width, tap % geometry.kernel_width);
          const C s = scale_at<T>(grads.spatial, sample, tap);
          energy += s * w * d;
          spatial = f * c * w * d;
          C *const weight_sum = weight_sums + (kept + t) * slab_channels + local;
          *weight_sum = (is_first ? C(0) : *weight_sum) + f * s * c * d;
        }
        if (plan.spatial) {
#pragma unroll
          for (int offset = 16; offset > 0; offset /= 2)
            spatial += __shfl_xor_sync(0xffffffff, spatial, offset);
          if (threadIdx.x % 32 == 0)
            warp_sums[t * kWarps + threadIdx.x / 32] = spatial;
        }
      }
      __syncthreads();
      if (const int t = threadIdx.x; plan.spatial && t < kTaps && first_tap + t < taps) {
        const int tap = first_tap + t;
        C *const kept_sum = spatial_sums + kept + t;
        C spatial = is_first || grads.spatial_per_sample ? C(0) : *kept_sum;
#pragma unroll
        for (int warp = 0; warp < kWarps; ++warp)
          spatial += warp_sums[t * kWarps + warp];
        *kept_sum = spatial;
        if (is_last || grads.spatial_per_sample) {
          const int64_t samples = grads.spatial_per_sample ? geometry.batch : plan.ranges;
          const int64_t row = int64_t(blockIdx.x % plan.slab.slabs) * parts + part;
          static_cast<C *>(plan.spatial)[(row * samples + (grads.spatial_per_sample ? sample : range)) * taps + tap] =
              spatial;
        }
      }
    }
    if (!owns)
      continue;
    const auto give = [&](void *partial, bool per_sample, C &sum, C value) {
      sum = per_sample ? value : sum + value;
      if (!partial || !(per_sample || is_last))
        return;
      const int64_t samples = per_sample ? geometry.batch : plan.ranges, row = int64_t(group) * parts + part;
      static_cast<C *>(partial)[(row * samples + (per_sample ? sample : range)) * plan.slab.channels + channel] = sum;
    };
    give(plan.channel, grads.channel_per_sample, channel_sum, f * energy);
    give(plan.filter, grads.filter_per_sample, filter_sum, c * energy);
  }
  if (plan.weight && owns)
    for (int tap = first_pass * kTaps; tap < min(last_pass * kTaps, taps); ++tap)
      static_cast<C *>(
          plan.weight)[((int64_t(part) * plan.ranges + range) * taps + tap) * plan.slab.channels + channel] =
          weight_sums[(tap - first_pass * kTaps) * slab_channels + local];
}

} // namespace kerneldna::cuda
