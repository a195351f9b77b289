// The target of a depthwise convolution, forward or input gradient (conv_depthwise.h).
//
// A block has one sample and a slab of channels: `lanes` vectors of channels side by side, all threads of one lane on
// different pixels. It folds the weight, the taps' scales and the source's scales into one factor for each tap
// and channel, which it keeps in shared memory in the precision of the sum, and loops over its part of the pixels.
//
// Padding is never multiplied, because a factor may be infinite.
#pragma once

#include "conv_depthwise_slab.cuh"

namespace kerneldna::cuda {

struct DepthwisePlan {
  SlabPlan slab;
  int parts;              // blocks that share the pixels of a sample and slab
  int runs_per_row, runs; // of a sample; a run is some pixels side by side in a row, which one thread computes
  int runs_per_part;
};

// Which rows of the kernel meet source rows of a target row: first, first + step, ..., and the places of those.
struct TapRows {
  int first, step;
  int row, row_step;
};

template <bool Transposed> __device__ inline TapRows tap_rows(int target, const Geometry &geometry) {
  const int stride = geometry.stride[0], padding = geometry.padding[0];
  if (!Transposed)
    return {0, 1, target * stride - padding, 1};
  const int reach = target + padding;
  return {reach % stride, stride, reach / stride, -1};
}

template <class T, bool Transposed> class DepthwiseBlock {
public:
  static constexpr int kCount = Vector<T>::kCount;

  __device__ DepthwiseBlock(const Depthwise &conv, const DepthwisePlan &plan, unsigned char *shared)
      : conv(conv), plan(plan), slab(plan.slab, blockIdx.x), factors(reinterpret_cast<float *>(shared), plan.slab) {
    const unsigned rest = blockIdx.x / plan.slab.slabs, parts = plan.parts;
    sample = rest / parts;
    first_run = int(rest % parts) * plan.runs_per_part;
    last_run = min(first_run + plan.runs_per_part, plan.runs);
    const Geometry &geometry = conv.geometry;
    taps = geometry.kernel_height * geometry.kernel_width;
    source_height = Transposed ? geometry.out_height : geometry.in_height;
    source_width = Transposed ? geometry.out_width : geometry.in_width;
    target_width = Transposed ? geometry.in_width : geometry.out_width;
  }

  // Puts the factors of all taps into shared memory, behind them the scale of the target and the bias.
  __device__ void fold() {
    const int channels = slab.channels(plan.slab), kernel_width = conv.geometry.kernel_width;
    for (int i = threadIdx.x; i < (taps + 2) * channels; i += kDepthwiseThreads) {
      const int tap = i / channels, local = i % channels, channel = slab.first_channel + local;
      float value = 0;
      if (channel < plan.slab.channels) {
        if (tap < taps)
          value = weight_at<T>(conv.weight, channel, tap / kernel_width, tap % kernel_width) *
                  scale_at<T>(conv.spatial, sample, tap) * scale_at<T>(conv.source_scale, sample, channel);
        else if (tap == taps)
          value = scale_at<T>(conv.target_scale, sample, channel);
        else if (conv.bias)
          value = to_compute(static_cast<const T *>(conv.bias)[channel]);
      }
      factors.put(tap, local, value);
    }
    __syncthreads();
  }

  __device__ const T *source_row(int row) const {
    return static_cast<const T *>(conv.source.data) + sample * conv.source.sample_stride +
           row * conv.source.row_stride + slab.channel;
  }

  __device__ void store(const float (&sums)[kCount], int row, int column) const {
    float scale[kCount], bias[kCount], values[kCount];
    factors.get(taps, slab.lane, scale);
    factors.get(taps + 1, slab.lane, bias);
#pragma unroll
    for (int k = 0; k < kCount; ++k)
      values[k] = sums[k] * scale[k] + bias[k];
    *reinterpret_cast<Vector<T> *>(static_cast<T *>(conv.target.data) + sample * conv.target.sample_stride +
                                   row * conv.target.row_stride + column * conv.target.column_stride + slab.channel) =
        pack<T>(values);
  }

  const Depthwise &conv;
  const DepthwisePlan &plan;
  const Slab<kCount> slab;
  SlabRows<kCount> factors;
  int64_t sample;
  int first_run, last_run;
  int taps, source_height, source_width, target_width;
};

// How the taps of one row of the kernel lie between a run of target pixels and the source pixels that it meets.
template <int KernelWidth, int Step, bool Transposed> struct RunShape {
  static constexpr int kPixels = kRunPixels;
  static constexpr int kLead = Transposed ? (KernelWidth - 1) / Step : 0;
  static constexpr int kColumns = Transposed ? (kPixels - 1) / Step + kLead + 1 : (kPixels - 1) * Step + KernelWidth;
  static_assert(kPixels % Step == 0);

  // A run of the input gradient begins where the first tap meets a pixel, which may be before the first column.
  __host__ __device__ static int shift(int padding) { return Transposed ? padding % Step : 0; }
  __device__ static int first_column(int target, int padding) {
    return Transposed ? (target + padding) / Step - kLead : target * Step - padding;
  }
  // The source pixel of a target pixel and a tap, counted from the first one, or -1 if they do not meet.
  __device__ static constexpr int column(int pixel, int tap) {
    if (!Transposed)
      return pixel * Step + tap;
    return (pixel - tap) % Step == 0 ? (pixel - tap) / Step + kLead : -1;
  }
};

// sums += the taps of one row of the kernel. Inside: no source pixel lies beyond an edge of the map.
template <class Shape, int KernelWidth, bool Inside, class T>
__device__ inline void add_row(float (&sums)[Shape::kPixels][Vector<T>::kCount], const T *source, int column_stride,
                               int first_column, int width, const float (&factor)[KernelWidth][Vector<T>::kCount]) {
  constexpr int kCount = Vector<T>::kCount;
  Vector<T> packed[Shape::kColumns];
#pragma unroll
  for (int j = 0; j < Shape::kColumns; ++j)
    if (Inside || (first_column + j >= 0 && first_column + j < width))
      packed[j] = load(source + (first_column + j) * column_stride);
#pragma unroll
  for (int j = 0; j < Shape::kColumns; ++j)
    if (Inside || (first_column + j >= 0 && first_column + j < width)) {
      float values[kCount];
      unpack(packed[j], values);
#pragma unroll
      for (int pixel = 0; pixel < Shape::kPixels; ++pixel)
#pragma unroll
        for (int v = 0; v < KernelWidth; ++v)
          if (Shape::column(pixel, v) == j)
#pragma unroll
            for (int k = 0; k < kCount; ++k)
              sums[pixel][k] += factor[v][k] * values[k];
    }
}

// A thread computes a run of pixels, which share the source pixels and factors that it has in registers.
template <class T, int KernelWidth, int Step, bool Transposed>
__global__ void __launch_bounds__(kDepthwiseThreads, KernelWidth > 3 ? 2 : 3)
    depthwise_runs_kernel(Depthwise conv, DepthwisePlan plan) {
  KERNELDNA_SHARED(shared);
  DepthwiseBlock<T, Transposed> block(conv, plan, shared);
  using Shape = RunShape<KernelWidth, Step, Transposed>;
  const Geometry &geometry = conv.geometry;
  const int column_stride = int(conv.source.column_stride);
  block.fold();
  if (block.slab.channel >= plan.slab.channels)
    return;
  for (int run = block.first_run + block.slab.slot; run < block.last_run; run += block.slab.slots) {
    const int row = run / plan.runs_per_row;
    const int column = run % plan.runs_per_row * Shape::kPixels - Shape::shift(geometry.padding[1]);
    const int first = Shape::first_column(column, geometry.padding[1]);
    const bool inside = first >= 0 && first + Shape::kColumns <= block.source_width;
    const TapRows down = tap_rows<Transposed>(row, geometry);
    float sums[Shape::kPixels][Vector<T>::kCount] = {};
    for (int u = down.first, y = down.row; u < geometry.kernel_height; u += down.step, y += down.row_step) {
      if (y < 0 || y >= block.source_height)
        continue;
      float factor[KernelWidth][Vector<T>::kCount];
#pragma unroll
      for (int v = 0; v < KernelWidth; ++v)
        block.factors.get(u * KernelWidth + v, block.slab.lane, factor[v]);
      const T *const source = block.source_row(y);
      if (inside)
        add_row<Shape, KernelWidth, true>(sums, source, column_stride, first, block.source_width, factor);
      else
        add_row<Shape, KernelWidth, false>(sums, source, column_stride, first, block.source_width, factor);
    }
#pragma unroll
    for (int pixel = 0; pixel < Shape::kPixels; ++pixel)
      if (column + pixel >= 0 && column + pixel < block.target_width)
        block.store(sums[pixel], row, column + pixel);
  }
}

} // namespace kerneldna::cuda
