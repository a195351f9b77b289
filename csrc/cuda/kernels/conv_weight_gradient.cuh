// The kernel of conv_weight_gradient.h.
//
// Tiles are copied into shared memory some steps ahead. When one has arrived, each thread scales in its place what it
// has copied itself, where there are factors; a barrier later the tile is multiplied. That one barrier a step suffices:
// the place that is copied to next was read before it.
#pragma once

#include "conv_weight_gradient.h"
#include "weight_gradient_products.cuh"

#include <climits>
#include <cstring>

namespace kerneldna::cuda {

// A vector as what it is in registers: as 16-bit numbers the compiler would take it to pieces.
struct alignas(16) Bits {
  uint32_t words[4];
};

template <class T> __device__ inline Vector<T> values_of(const Bits &bits) {
  Vector<T> vector;
  memcpy(&vector, &bits, sizeof(bits));
  return vector;
}

template <class T> __device__ inline Bits bits_of(const Vector<T> &vector) {
  Bits bits;
  memcpy(&bits, &vector, sizeof(bits));
  return bits;
}

template <class T> __device__ inline Bits multiply(Bits bits, const Bits &factors) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      bits.words[i] = multiply_pair<T>(bits.words[i], factors.words[i]);
    return bits;
  } else {
    Vector<T> vector = values_of<T>(bits);
#pragma unroll
    for (int i = 0; i < vector.kCount; ++i)
      vector.values[i] *= values_of<T>(factors).values[i];
    return bits_of(vector);
  }
}

template <class T> __device__ inline Bits multiply(const Bits &bits, float factor) {
  Vector<T> vector = values_of<T>(bits);
#pragma unroll
  for (T &value : vector.values)
    value = from_compute<T>(to_compute(value) * factor);
  return bits_of(vector);
}

// Both factors with one rounding.
template <class T> __device__ inline Bits multiply(const Bits &bits, const Bits &factors, float factor) {
  Vector<T> vector = values_of<T>(bits);
#pragma unroll
  for (int i = 0; i < vector.kCount; ++i)
    vector.values[i] =
        from_compute<T>(to_compute(vector.values[i]) * (to_compute(values_of<T>(factors).values[i]) * factor));
  return bits_of(vector);
}

// Where in the output a pixel is, samples counted from the first one of a part of pixels on.
struct Pixel {
  int sample, height, width;

  __device__ void start(const Geometry &g, int64_t pixel) {
    const int64_t row = pixel / g.out_width;
    sample = int(row / g.out_height);
    height = int(row % g.out_height);
    width = int(pixel % g.out_width);
  }

  // By distance[0] samples, distance[1] rows and distance[2] pixels, without a division.
  __device__ void advance(const Geometry &g, const int (&distance)[3]) {
    width += distance[2];
    height += distance[1];
    sample += distance[0];
    if (width >= g.out_width) {
      width -= g.out_width;
      ++height;
    }
    if (height >= g.out_height) {
      height -= g.out_height;
      ++sample;
    }
  }
};

constexpr int kWeightGradientStages = 3;

template <class Products> constexpr size_t weight_gradient_shared_bytes() {
  return kWeightGradientStages * 2 * sizeof(typename Products::Element) * Products::kBlockK * Products::kPitch;
}

template <class Products>
__global__ void __launch_bounds__(Products::kThreads, Products::kBlocksPerMultiprocessor)
    conv_weight_gradient_kernel(const ConvWeightGradient p) {
  using T = typename Products::Element;
  constexpr int kBlock = Products::kBlock, kBlockK = Products::kBlockK, kTile = kBlockK * Products::kPitch;
  constexpr int kStages = kWeightGradientStages, kColumns = kBlock / Vector<T>::kCount;
  constexpr int kRowsApart = Products::kThreads / kColumns, kRows = kBlockK / kRowsApart;
  static_assert(kRows * kRowsApart == kBlockK && kRowsApart * kColumns == Products::kThreads && kRowsApart % 4 == 0);
  KERNELDNA_SHARED(shared);
  T *const tiles = reinterpret_cast<T *>(shared); // [kStages][of grad_output, of input][kTile]

  // The block's part of pixels changes last, so that blocks that run at the same time read the same ones.
  const Geometry &g = p.geometry;
  const int filters = g.out_channels / g.groups, channels = g.in_channels / g.groups;
  const int taps = g.kernel_height * g.kernel_width;
  unsigned index = blockIdx.x;
  const auto next = [&](unsigned size) {
    const int digit = int(index % size);
    index /= size;
    return digit;
  };
  const int first_channel = next(unsigned(ceil_divide(channels, kBlock))) * kBlock;
  const int tap = next(unsigned(taps));
  const int first_filter = next(unsigned(ceil_divide(filters, kBlock))) * kBlock;
  const int group = next(unsigned(g.groups)), part = int(index);

  // Within a part, samples and pixels are counted by 32 bits.
  const int64_t map = int64_t(g.out_height) * g.out_width, first_pixel = int64_t(part) * p.steps * kBlockK;
  const int64_t first_sample = first_pixel / map;
  int left = int(min(int64_t(p.steps) * kBlockK, g.batch * map - first_pixel)); // pixels of this step and later ones
  const int distance[3] = {int(kBlockK / map), kBlockK / g.out_width % g.out_height, kBlockK % g.out_width};
  const int tap_height = tap / g.kernel_width * g.dilation[0] - g.padding[0];
  const int tap_width = tap % g.kernel_width * g.dilation[1] - g.padding[1];

  // A thread copies a vector of each operand from rows that lie kRowsApart pixels apart.
  const int row = int(threadIdx.x) / kColumns, column = int(threadIdx.x) % kColumns * Vector<T>::kCount;
  const int place = Products::place(row, column);
  const bool has_filters = first_filter + column < filters, has_channels = first_channel + column < channels;
  const auto start_of = [&](const auto &tensor, int offset) {
    return tensor.data ? static_cast<const T *>(tensor.data) + (first_sample * tensor.sample_stride + offset) : nullptr;
  };
  const T *const grad_output = start_of(p.grad_output, group * filters + first_filter + column);
  const T *const input = start_of(p.input, group * channels + first_channel + column);
  const T *const filter = start_of(p.filter, group * filters + first_filter + column);
  const T *const channel = start_of(p.channel, group * channels + first_channel + column);
  const T *const spatial = start_of(p.spatial, tap);

  Pixel pixels[kRows];             // that are copied next
  int samples[kStages - 1][kRows]; // of the steps that have been copied; complements, where on the padding
  const auto copy = [&](T *target, int (&samples)[kRows], int existing) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Pixel &out = pixels[r];
      const int height = out.height * g.stride[0] + tap_height, width = out.width * g.stride[1] + tap_width;
      const bool exists = row + r * kRowsApart < existing;
      const bool inside = exists && unsigned(height) < unsigned(g.in_height) && unsigned(width) < unsigned(g.in_width);
      const auto pixel_of = [&](const T *first, const Image &image, int height, int width) {
        return first + (out.sample * image.sample_stride + height * image.row_stride + width * image.column_stride);
      };
      T *const at = target + place + r * kRowsApart * Products::kPitch;
      cp_async<16>(at, pixel_of(grad_output, p.grad_output, out.height, out.width), exists && has_filters);
      cp_async<16>(at + kTile, pixel_of(input, p.input, height, width), inside && has_channels);
      samples[r] = inside ? out.sample : ~out.sample;
      pixels[r].advance(g, distance);
    }
    cp_async_commit();
  };
  // Zeros beyond the pixels and on the padding stay zeros, whatever their factors.
  const auto scale = [&](T *target, const int (&samples)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = samples[r] >= 0;
      const int64_t sample = inside ? samples[r] : ~samples[r];
      Bits *const at = reinterpret_cast<Bits *>(target + place + r * kRowsApart * Products::kPitch);
      if (filter && has_filters && row + r * kRowsApart < left)
        *at = multiply<T>(*at, *reinterpret_cast<const Bits *>(filter + sample * p.filter.sample_stride));
      if (!inside || !has_channels || !(channel || spatial))
        continue;
      Bits *const of_input = at + kTile / Vector<T>::kCount;
      Bits scaled = *of_input, factors;
      if (channel)
        factors = *reinterpret_cast<const Bits *>(channel + sample * p.channel.sample_stride);
      if (spatial) {
        const float factor = to_compute(spatial[sample * p.spatial.sample_stride]);
        scaled = channel ? multiply<T>(scaled, factors, factor) : multiply<T>(scaled, factor);
      } else {
        scaled = multiply<T>(scaled, factors);
      }
      *of_input = scaled;
    }
  };

#pragma unroll
  for (int r = 0; r < kRows; ++r)
    pixels[r].start(g, first_pixel - first_sample * map + row + r * kRowsApart);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage)
    copy(tiles + stage * 2 * kTile, samples[stage], left - stage * kBlockK);

  Products products;
  for (int stage = 0; left > 0; left -= kBlockK) {
    T *const tile = tiles + stage * 2 * kTile;
    cp_async_wait<kStages - 2>();
    scale(tile, samples[0]);
    __syncthreads();
#pragma unroll
    for (int s = 1; s < kStages - 1; ++s)
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        samples[s - 1][r] = samples[s][r];
    copy(tiles + (stage == 0 ? kStages - 1 : stage - 1) * 2 * kTile, samples[kStages - 2],
         left - (kStages - 1) * kBlockK);
    products.add(tile, tile + kTile);
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  cp_async_wait<0>();

  float *const partial = p.partial + int64_t(part) * g.out_channels * taps * channels;
  products.each([&](int m, int n, float sum) {
    const int filter = first_filter + m, channel = first_channel + n;
    if (filter < filters && channel < channels)
      partial[((group * filters + filter) * taps + tap) * channels + channel] = sum;
  });
}

template <class Products> void launch_weight_gradient(const ConvWeightGradient &p, Stream stream) {
  const Geometry &g = p.geometry;
  const int64_t squares = ceil_divide(g.out_channels / g.groups, Products::kBlock) *
                          ceil_divide(g.in_channels / g.groups, Products::kBlock);
  const int64_t blocks = squares * g.groups * g.kernel_height * g.kernel_width * p.parts;
  if (blocks > INT_MAX)
    fail("conv_weight_gradient: ", blocks, " blocks of threads are more than a GPU takes, ", INT_MAX);
  launch(conv_weight_gradient_kernel<Products>,
         {"conv_weight_gradient", {blocks}, dim3(Products::kThreads), weight_gradient_shared_bytes<Products>(), stream},
         p);
}

template <class T> void launch_half_weight_gradient(const ConvWeightGradient &p, Stream stream) {
  if (p.block == 128)
    launch_weight_gradient<HalfProducts<T, 128>>(p, stream);
  else
    launch_weight_gradient<HalfProducts<T, 64>>(p, stream);
}

} // namespace kerneldna::cuda
