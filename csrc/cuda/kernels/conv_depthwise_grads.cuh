// All gradients of a depthwise convolution but that of its input, from the correlation D (conv_depthwise.h).
//
// A block has a slab of channels, a part of the pixels and a range of the samples, which it takes one after another. It
// goes over the pixels once for each row of the kernel, so that D of its taps stays in registers; x and gy come from
// the cache from the second row on. After a row the threads of a lane put their D together in shared memory, and one
// thread for each channel adds what it makes of it to all gradients: dW stays in the block until the last sample, the
// others until the last sample only where the attention is static.
#pragma once

#include "conv_depthwise_slab.cuh"

namespace kerneldna::cuda {

struct DepthwiseGradsPlan {
  SlabPlan slab;
  int parts, runs_per_row, runs, runs_per_part; // as in DepthwisePlan
  int ranges, samples_per_range;
  // Rows before the samples are parts, or slabs * parts; samples are ranges where the attention is static.
  float *weight;           // [parts, ranges, taps, C]
  float *channel, *filter; // [parts, samples, C]
  float *spatial;          // [slabs * parts, samples, taps]
};

template <class T, int KernelWidth, int Step> class DepthwiseCorrelation {
public:
  static constexpr int kCount = Vector<T>::kCount;

  __device__ DepthwiseCorrelation(const DepthwiseGrads &grads, const DepthwiseGradsPlan &plan, const Slab<kCount> &slab,
                                  int first_run, int last_run)
      : grads(grads), plan(plan), slab(slab), first_run(first_run), last_run(last_run) {}

  // D of a row of the kernel, over this thread's pixels of a sample.
  __device__ void run(float (&sums)[KernelWidth][kCount], int64_t sample, int kernel_row) const {
#pragma unroll
    for (int v = 0; v < KernelWidth; ++v)
#pragma unroll
      for (int k = 0; k < kCount; ++k)
        sums[v][k] = 0;
    if (slab.channel >= plan.slab.channels)
      return;
    const Image &input = grads.input, &grad = grads.grad_output;
    const T *const x = static_cast<const T *>(input.data) + sample * input.sample_stride + slab.channel;
    const T *const gy = static_cast<const T *>(grad.data) + sample * grad.sample_stride + slab.channel;
    for (int i = first_run + slab.slot; i < last_run; i += slab.slots) {
      const int row = i / plan.runs_per_row, column = i % plan.runs_per_row * kRunPixels;
      add_run(sums, x, gy + row * grad.row_stride, row, column, kernel_row);
    }
  }

private:
  __device__ void add_run(float (&sums)[KernelWidth][kCount], const T *x, const T *gy, int row, int column,
                          int kernel_row) const {
    constexpr int kColumns = (kRunPixels - 1) * Step + KernelWidth;
    const Geometry &geometry = grads.geometry;
    const int y = row * geometry.stride[0] + kernel_row - geometry.padding[0];
    if (y < 0 || y >= geometry.in_height)
      return;
    const int x_stride = int(grads.input.column_stride), gy_stride = int(grads.grad_output.column_stride);
    const int first = column * Step - geometry.padding[1];
    x += y * grads.input.row_stride;
    Vector<T> source[kColumns], grad[kRunPixels];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      source[j] = Vector<T>{};
      if (first + j >= 0 && first + j < geometry.in_width)
        source[j] = load(x + (first + j) * x_stride);
    }
#pragma unroll
    for (int pixel = 0; pixel < kRunPixels; ++pixel)
      if (column + pixel < geometry.out_width)
        grad[pixel] = load(gy + (column + pixel) * gy_stride);
#pragma unroll
    for (int pixel = 0; pixel < kRunPixels; ++pixel)
      if (column + pixel < geometry.out_width) { // beyond it, source may be infinite
        float g[kCount];
        unpack(grad[pixel], g);
#pragma unroll
        for (int v = 0; v < KernelWidth; ++v) {
          float values[kCount];
          unpack(source[pixel * Step + v], values);
#pragma unroll
          for (int k = 0; k < kCount; ++k)
            sums[v][k] += g[k] * values[k];
        }
      }
  }

  const DepthwiseGrads &grads;
  const DepthwiseGradsPlan &plan;
  const Slab<kCount> &slab;
  int first_run, last_run;
};

template <class T, int KernelWidth, int Step>
__global__ void __launch_bounds__(kDepthwiseThreads, KernelWidth > 3 || Step > 1 ? 3 : 4)
    depthwise_grads_kernel(DepthwiseGrads grads, DepthwiseGradsPlan plan) {
  constexpr int kCount = Vector<T>::kCount, kWarps = kDepthwiseThreads / 32;
  const Geometry &geometry = grads.geometry;
  const Slab<kCount> slab(plan.slab, blockIdx.x);
  const unsigned parts = plan.parts, rest = blockIdx.x / plan.slab.slabs;
  const int part = rest % parts, range = rest / parts;
  const int first_run = part * plan.runs_per_part, last_run = min(first_run + plan.runs_per_part, plan.runs);
  const int64_t first_sample = int64_t(range) * plan.samples_per_range;
  const int64_t last_sample = min(first_sample + plan.samples_per_range, geometry.batch);
  const int taps = geometry.kernel_height * KernelWidth, slab_channels = slab.channels(plan.slab);

  KERNELDNA_SHARED(shared);
  float *const correlation = reinterpret_cast<float *>(shared);                    // [KernelWidth][slots][slab]
  float *const warp_sums = correlation + KernelWidth * kDepthwiseThreads * kCount; // [KernelWidth][kWarps]
  float *const spatial_sums = warp_sums + KernelWidth * kWarps;                    // [taps]
  float *const weight_sums = spatial_sums + taps;                                  // [taps][slab]

  // The thread's channel from here on, if it has one: that of the slab which its index says.
  const int local = threadIdx.x, channel = slab.first_channel + local;
  const bool owns = local < slab_channels && channel < plan.slab.channels;
  float channel_sum = 0, filter_sum = 0;

  const DepthwiseCorrelation<T, KernelWidth, Step> correlate(grads, plan, slab, first_run, last_run);
  for (int64_t sample = first_sample; sample < last_sample; ++sample) {
    const bool is_first = sample == first_sample, is_last = sample + 1 == last_sample;
    const float c = owns ? scale_at<T>(grads.channel, sample, channel) : 0.0f;
    const float f = owns ? scale_at<T>(grads.filter, sample, channel) : 0.0f;
    float energy = 0; // E
    for (int u = 0; u < geometry.kernel_height; ++u) {
      float sums[KernelWidth][kCount];
      correlate.run(sums, sample, u);
      SlabRows<kCount> rows(correlation, plan.slab);
#pragma unroll
      for (int v = 0; v < KernelWidth; ++v)
        rows.put(v * slab.slots + slab.slot, slab.lane, sums[v]);
      __syncthreads();

#pragma unroll
      for (int v = 0; v < KernelWidth; ++v) {
        const int tap = u * KernelWidth + v;
        float spatial = 0;
        if (owns) {
          float d = 0;
          for (int slot = 0; slot < slab.slots; ++slot)
            d += rows.get(v * slab.slots + slot, local);
          const float w = weight_at<T>(grads.weight, channel, u, v);
          const float s = scale_at<T>(grads.spatial, sample, tap);
          energy += s * w * d;
          spatial = f * c * w * d;
          float *const weight_sum = weight_sums + tap * slab_channels + local;
          *weight_sum = (is_first ? 0.0f : *weight_sum) + f * s * c * d;
        }
        if (plan.spatial) {
#pragma unroll
          for (int offset = 16; offset > 0; offset /= 2)
            spatial += __shfl_xor_sync(0xffffffff, spatial, offset);
          if (threadIdx.x % 32 == 0)
            warp_sums[v * kWarps + threadIdx.x / 32] = spatial;
        }
      }
      __syncthreads();
      if (const int v = threadIdx.x; plan.spatial && v < KernelWidth) {
        const int tap = u * KernelWidth + v;
        float spatial = is_first || grads.spatial_per_sample ? 0.0f : spatial_sums[tap];
#pragma unroll
        for (int warp = 0; warp < kWarps; ++warp)
          spatial += warp_sums[v * kWarps + warp];
        spatial_sums[tap] = spatial;
        if (is_last || grads.spatial_per_sample) {
          const int64_t samples = grads.spatial_per_sample ? geometry.batch : plan.ranges;
          const int64_t row = int64_t(blockIdx.x % plan.slab.slabs) * parts + part;
          plan.spatial[(row * samples + (grads.spatial_per_sample ? sample : range)) * taps + tap] = spatial;
        }
      }
    }
    if (!owns)
      continue;
    const auto give = [&](float *partial, bool per_sample, float &sum, float value) {
      sum = per_sample ? value : sum + value;
      if (!partial || !(per_sample || is_last))
        return;
      const int64_t samples = per_sample ? geometry.batch : plan.ranges;
      partial[(part * samples + (per_sample ? sample : range)) * plan.slab.channels + channel] = sum;
    };
    give(plan.channel, grads.channel_per_sample, channel_sum, f * energy);
    give(plan.filter, grads.filter_per_sample, filter_sum, c * energy);
  }
  if (plan.weight && owns)
    for (int tap = 0; tap < taps; ++tap)
      plan.weight[((int64_t(part) * plan.ranges + range) * taps + tap) * plan.slab.channels + channel] =
          weight_sums[tap * slab_channels + local];
}

} // namespace kerneldna::cuda
