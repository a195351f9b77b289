// The target of a depthwise convolution, forward or input gradient (conv_depthwise.h).
//
// A block has one sample and a slab of channels: `lanes` vectors of Count channels side by side, all threads of one
// lane on different pixels. It folds the weight, the taps' scales and the source's scales into one factor for each tap
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
  int chunk;       // taps whose factors fit into shared memory at a time
  int tap_step[2]; // input gradient: from a tap that meets a source pixel to the next
};

// Which taps of an axis meet source pixels of one target pixel: first, first + step, ..., and the positions of those.
struct TapLine {
  int first, step;
  int position, position_step;
};

template <bool Transposed>
__device__ inline TapLine tap_line(int target, int axis, const Geometry &geometry, const DepthwisePlan &plan) {
  const int stride = geometry.stride[axis], padding = geometry.padding[axis], dilation = geometry.dilation[axis];
  if (!Transposed)
    return {0, 1, target * stride - padding, dilation};
  const int step = plan.tap_step[axis];
  for (int tap = 0; tap < step; ++tap) {
    const int reach = target + padding - tap * dilation;
    if (reach % stride == 0)
      return {tap, step, reach / stride, -dilation * step / stride};
  }
  return {0x7fffffff, 0, 0, 0};
}

template <class T, int Count, bool Transposed> class DepthwiseBlock {
public:
  using C = compute_t<T>;

  __device__ DepthwiseBlock(const Depthwise &conv, const DepthwisePlan &plan, unsigned char *shared)
      : conv(conv), plan(plan), slab(plan.slab, blockIdx.x), factors(reinterpret_cast<C *>(shared), plan.slab) {
    const unsigned rest = blockIdx.x / plan.slab.slabs, parts = plan.parts;
    sample = rest / parts;
    first_run = int(rest % parts) * plan.runs_per_part;
    last_run = min(first_run + plan.runs_per_part, plan.runs);
    const Geometry &geometry = conv.geometry;
    taps = geometry.kernel_height * geometry.kernel_width;
    multiplier = geometry.out_channels / geometry.in_channels;
    source_height = Transposed ? geometry.out_height : geometry.in_height;
    source_width = Transposed ? geometry.out_width : geometry.in_width;
    target_height = Transposed ? geometry.in_height : geometry.out_height;
    target_width = Transposed ? geometry.in_width : geometry.out_width;
  }

  // How many source channels meet in a target channel.
  __device__ int sources() const { return Transposed ? multiplier : 1; }
  __device__ int source_channel(int target_channel, int m) const {
    return Transposed ? target_channel * multiplier + m : target_channel / multiplier;
  }

  // Puts the factors of taps [begin, end) and of source channel m into shared memory, behind them the scale of the
  // target and the bias.
  __device__ void fold(int begin, int end, int m) {
    __syncthreads(); // all have read the ones before
    const int channels = slab.channels(plan.slab), kernel_width = conv.geometry.kernel_width;
    for (int i = threadIdx.x; i < (end - begin + 2) * channels; i += kDepthwiseThreads) {
      const int tap = begin + i / channels, local = i % channels, target = slab.first_channel + local;
      C value = 0;
      if (target < plan.slab.channels) {
        const int source = source_channel(target, m);
        if (tap < end)
          value = weight_at<T>(conv.weight, Transposed ? source : target, tap / kernel_width, tap % kernel_width) *
                  scale_at<T>(conv.spatial, sample, tap) * scale_at<T>(conv.source_scale, sample, source);
        else if (tap == end)
          value = scale_at<T>(conv.target_scale, sample, target);
        else if (conv.bias)
          value = to_compute(static_cast<const T *>(conv.bias)[target]);
      }
      factors.put(tap < end ? tap - begin : plan.chunk + tap - end, local, value);
    }
    __syncthreads();
  }

  __device__ const T *source_row(int row, int channel) const {
    return static_cast<const T *>(conv.source.data) + sample * conv.source.sample_stride +
           row * conv.source.row_stride + channel;
  }

  __device__ void store(const C (&sums)[Count], int row, int column) const {
    C scale[Count], bias[Count];
    factors.get(plan.chunk, slab.lane, scale);
    factors.get(plan.chunk + 1, slab.lane, bias);
    C values[Count], residual[Count];
    const int64_t at = at_pixel(conv.residual, row, column);
    if (conv.residual.data)
      unpack(load<T, Count>(static_cast<const T *>(conv.residual.data) + at), residual);
#pragma unroll
    for (int k = 0; k < Count; ++k) {
      values[k] = sums[k] * scale[k] + bias[k];
      if (conv.residual.data)
        values[k] += residual[k];
      if (conv.relu && values[k] < 0) // a NaN stays one
        values[k] = 0;
    }
    *reinterpret_cast<Lanes<T, Count> *>(static_cast<T *>(conv.target.data) + at_pixel(conv.target, row, column)) =
        pack<T, Count>(values);
  }

  const Depthwise &conv;
  const DepthwisePlan &plan;
  const Slab<Count> slab;
  SlabRows<C, Count> factors;
  int64_t sample;
  int first_run, last_run;
  int taps, multiplier, source_height, source_width, target_height, target_width;

private:
  __device__ int64_t at_pixel(const Image &image, int row, int column) const {
    return sample * image.sample_stride + row * image.row_stride + column * image.column_stride + slab.channel;
  }
};

// Any kernel, stride, dilation and multiplier: one pixel a thread at a time.
template <class T, int Count, bool Transposed>
__global__ void __launch_bounds__(kDepthwiseThreads, 6) depthwise_pixels_kernel(Depthwise conv, DepthwisePlan plan) {
  KERNELDNA_SHARED(shared);
  DepthwiseBlock<T, Count, Transposed> block(conv, plan, shared);
  using C = compute_t<T>;
  const Geometry &geometry = conv.geometry;
  const bool folded_once = plan.chunk == block.taps && block.sources() == 1;
  if (folded_once)
    block.fold(0, block.taps, 0);

  // All threads take each turn, since fold is for the whole block.
  for (int turn = block.first_run; turn < block.last_run; turn += block.slab.slots) {
    const int pixel = turn + block.slab.slot;
    const bool inside = pixel < block.last_run && block.slab.channel < plan.slab.channels;
    const int row = pixel / block.target_width, column = pixel % block.target_width;
    const TapLine down = tap_line<Transposed>(row, 0, geometry, plan);
    const TapLine across = tap_line<Transposed>(column, 1, geometry, plan);
    C sums[Count] = {};
    for (int m = 0; m < block.sources(); ++m) {
      const int channel = block.source_channel(block.slab.channel, m);
      for (int begin = 0; begin < block.taps; begin += plan.chunk) {
        const int end = min(begin + plan.chunk, block.taps);
        if (!folded_once)
          block.fold(begin, end, m);
        if (!inside)
          continue;
        for (int u = down.first, y = down.position; u < geometry.kernel_height; u += down.step, y += down.position_step)
          if (y >= 0 && y < block.source_height)
            for (int v = across.first, x = across.position; v < geometry.kernel_width;
                 v += across.step, x += across.position_step) {
              const int tap = u * geometry.kernel_width + v;
              if (x < 0 || x >= block.source_width || tap < begin || tap >= end)
                continue;
              C source[Count], factor[Count];
              unpack(load<T, Count>(block.source_row(y, channel) + x * conv.source.column_stride), source);
              block.factors.get(tap - begin, block.slab.lane, factor);
#pragma unroll
              for (int k = 0; k < Count; ++k)
                sums[k] += factor[k] * source[k];
            }
      }
    }
    if (inside)
      block.store(sums, row, column);
  }
}

// How the taps of one row of the kernel lie between a run of target pixels and the source pixels that it meets.
template <int KernelWidth, int Step, bool Transposed> struct RunShape {
  static constexpr int kPixels = 4;
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
template <class Shape, int KernelWidth, bool Inside, class T, int Count>
__device__ inline void add_row(compute_t<T> (&sums)[Shape::kPixels][Count], const T *source, int column_stride,
                               int first_column, int width, const compute_t<T> (&factor)[KernelWidth][Count]) {
  Lanes<T, Count> packed[Shape::kColumns];
#pragma unroll
  for (int j = 0; j < Shape::kColumns; ++j)
    if (Inside || (first_column + j >= 0 && first_column + j < width))
      packed[j] = load<T, Count>(source + (first_column + j) * column_stride);
#pragma unroll
  for (int j = 0; j < Shape::kColumns; ++j)
    if (Inside || (first_column + j >= 0 && first_column + j < width)) {
      compute_t<T> values[Count];
      unpack(packed[j], values);
#pragma unroll
      for (int pixel = 0; pixel < Shape::kPixels; ++pixel)
#pragma unroll
        for (int v = 0; v < KernelWidth; ++v)
          if (Shape::column(pixel, v) == j)
#pragma unroll
            for (int k = 0; k < Count; ++k)
              sums[pixel][k] += factor[v][k] * values[k];
    }
}

// Kernels of a known width and step from column to column, undilated in a row, multiplier 1: a thread computes a run of
// pixels, which share the source pixels and factors that it has in registers.
template <class T, int Count, int KernelWidth, int Step, bool Transposed>
__global__ void __launch_bounds__(kDepthwiseThreads, KernelWidth > 3 ? 2 : 3)
    depthwise_runs_kernel(Depthwise conv, DepthwisePlan plan) {
  KERNELDNA_SHARED(shared);
  DepthwiseBlock<T, Count, Transposed> block(conv, plan, shared);
  using C = compute_t<T>;
  using Shape = RunShape<KernelWidth, Step, Transposed>;
  const Geometry &geometry = conv.geometry;
  const int column_stride = int(conv.source.column_stride);
  block.fold(0, block.taps, 0);
  if (block.slab.channel >= plan.slab.channels)
    return;
  for (int run = block.first_run + block.slab.slot; run < block.last_run; run += block.slab.slots) {
    const int row = run / plan.runs_per_row;
    const int column = run % plan.runs_per_row * Shape::kPixels - Shape::shift(geometry.padding[1]);
    const int first = Shape::first_column(column, geometry.padding[1]);
    const bool inside = first >= 0 && first + Shape::kColumns <= block.source_width;
    const TapLine down = tap_line<Transposed>(row, 0, geometry, plan);
    C sums[Shape::kPixels][Count] = {};
    for (int u = down.first, y = down.position; u < geometry.kernel_height; u += down.step, y += down.position_step) {
      if (y < 0 || y >= block.source_height)
        continue;
      C factor[KernelWidth][Count];
#pragma unroll
      for (int v = 0; v < KernelWidth; ++v)
        block.factors.get(u * KernelWidth + v, block.slab.lane, factor[v]);
      const T *const source = block.source_row(y, block.slab.channel);
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
