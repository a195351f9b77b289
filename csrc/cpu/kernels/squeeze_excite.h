// The kernels of squeeze-and-excitation: pool, dense layer, sigmoid. Each computes a range of independent tasks. The
// order of every sum follows from the shape alone: results do not depend on how the tasks are spread over threads.
#pragma once

#include "../tuning.h"
#include "simd.h"
#include "squeeze_excite_params.h"

#include <algorithm>
#include <cmath>

#if defined(__x86_64__) && defined(__GLIBC__)
__asm__(".symver exp, exp@GLIBC_2.2.5"); // the same but for old error handlers; the default one is glibc 2.29's
#endif

namespace kerneldna::cpu::KERNELDNA_ISA {

// The sum of adjacent values. Every 1024 go into a double, so that the error does not grow with the picture.
template <class T, class S> KERNELDNA_INLINE double sum_adjacent(const S *x, int64_t count) {
  constexpr int lanes = kLanes<T>;
  double total = 0;
  while (count > 0) {
    const int64_t part = std::min<int64_t>(count, 1024);
    Vec<T> even{}, odd{};
    int64_t i = 0;
    for (; i + 2 * lanes <= part; i += 2 * lanes) {
      even += load(x + i);
      odd += load(x + i + lanes);
    }
    if (i + lanes <= part) {
      even += load(x + i);
      i += lanes;
    }
    T rest = 0;
    for (; i < part; ++i)
      rest += get(x + i);
    total += sum_lanes<T>(even + odd) + rest;
    x += part;
    count -= part;
  }
  return total;
}

template <class T, class S> double sum_of_plane(const Image &image, const S *plane) {
  double total = 0;
  if (image.column_stride == 1 && (image.row_stride == image.width || image.height == 1))
    return sum_adjacent<T>(plane, image.height * image.width);
  for (int64_t h = 0; h < image.height; ++h) {
    const S *row = plane + h * image.row_stride;
    if (image.column_stride == 1)
      total += sum_adjacent<T>(row, image.width);
    else
      for (int64_t w = 0; w < image.width; ++w)
        total += get(row + w * image.column_stride);
  }
  return total;
}

// sums[0 .. Vectors * lanes) = the sums over `count` pixels from pixel `first` on, times scale.
template <int Vectors, class T, class S>
KERNELDNA_INLINE void sum_pixels(const Image &image, const S *x, int64_t first, int64_t count, T scale, T *sums) {
  constexpr int lanes = kLanes<T>;
  Vec<T> total[Vectors] = {};
  const S *row = x + first / image.width * image.row_stride;
  int64_t column = first % image.width;
  for (int64_t pixel = 0; pixel < count; ++pixel) {
    for (int v = 0; v < Vectors; ++v)
      total[v] += load(row + column * image.column_stride + v * lanes);
    if (++column == image.width) {
      column = 0;
      row += image.row_stride;
    }
  }
  for (int v = 0; v < Vectors; ++v)
    store(sums + v * lanes, total[v] * splat(scale));
}

template <class S, class T> void pool(const Pool &pool, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<T>;
  const Image &image = pool.image;
  const S *data = static_cast<const S *>(image.data);
  T *sums = static_cast<T *>(pool.sums);
  const int64_t pixels = image.height * image.width, channels = pool.channels;
  if (!pool.channels_adjacent) {
    for (int64_t task = begin; task < end; ++task) {
      const S *plane = data + task / channels * image.batch_stride + task % channels * image.channel_stride;
      sums[task] = T(sum_of_plane<T>(image, plane) / double(pixels));
    }
    return;
  }
  const T scale = pool.blocks == 1 ? T(1) / T(pixels) : T(1);
  for (int64_t task = begin; task < end; ++task) {
    const S *sample = data + task / pool.blocks * image.batch_stride;
    const int64_t first = task % pool.blocks * kPixelBlock, count = std::min(kPixelBlock, pixels - first);
    T *sum = sums + task * channels;
    int64_t c = 0;
    for (; c + 4 * lanes <= channels; c += 4 * lanes)
      sum_pixels<4>(image, sample + c, first, count, scale, sum + c);
    for (; c + lanes <= channels; c += lanes)
      sum_pixels<1>(image, sample + c, first, count, scale, sum + c);
    for (; c < channels; ++c) {
      T total = 0;
      for (int64_t p = first; p < first + count; ++p)
        total += get(sample + p / image.width * image.row_stride + p % image.width * image.column_stride + c);
      sum[c] = total * scale;
    }
  }
}

// `Samples` samples share one reading of the weight, `Outputs` outputs one of x.
template <int Samples, int Outputs, class S, class T>
KERNELDNA_INLINE void dense_tile(const Dense &layer, int64_t n, int64_t o) {
  constexpr int lanes = kLanes<T>;
  const int64_t in = layer.in;
  const S *weight = static_cast<const S *>(layer.weight) + o * in;
  const S *bias = static_cast<const S *>(layer.bias);
  const T *x = static_cast<const T *>(layer.x) + n * in;
  T *y = static_cast<T *>(layer.y) + n * layer.out + o;
  Vec<T> sum[Outputs][Samples] = {};
  int64_t i = 0;
  for (; i + lanes <= in; i += lanes) {
    Vec<T> x_vectors[Samples];
    for (int s = 0; s < Samples; ++s)
      x_vectors[s] = load(x + s * in + i);
    for (int k = 0; k < Outputs; ++k) {
      const Vec<T> w = load(weight + k * in + i);
      for (int s = 0; s < Samples; ++s)
        sum[k][s] += w * x_vectors[s];
    }
  }
  for (int s = 0; s < Samples; ++s)
    for (int k = 0; k < Outputs; ++k) {
      T total = bias ? get(bias + (o + k) * layer.bias_stride) : T(0);
      for (int64_t j = i; j < in; ++j)
        total += get(weight + k * in + j) * x[s * in + j];
      total += sum_lanes<T>(sum[k][s]);
      y[s * layer.out + k] = layer.rectified && total < 0 ? T(0) : total; // NaN stays
    }
}

template <class S, class T> void dense(const Dense &layer, int64_t begin, int64_t end) {
  constexpr int64_t tile = Dense::kTile;
  const int64_t tiles = (layer.out + tile - 1) / tile;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first_n = task / tiles * tile, last_n = std::min(first_n + tile, layer.batch);
    const int64_t first_o = task % tiles * tile, last_o = std::min(first_o + tile, layer.out);
    const bool whole_n = last_n == first_n + tile, whole_o = last_o == first_o + tile;
    for (int64_t n = first_n; n < last_n; n += whole_n ? tile : 1)
      for (int64_t o = first_o; o < last_o; o += whole_o ? tile : 1) {
        if (whole_n && whole_o)
          dense_tile<tile, tile, S, T>(layer, n, o);
        else if (whole_n)
          dense_tile<tile, 1, S, T>(layer, n, o);
        else if (whole_o)
          dense_tile<1, tile, S, T>(layer, n, o);
        else
          dense_tile<1, 1, S, T>(layer, n, o);
      }
  }
}

KERNELDNA_INLINE Vec<double> sigmoid_of(Vec<double> value) {
  for (int j = 0; j < kLanes<double>; ++j)
    value[j] = 1 / (1 + std::exp(-value[j]));
  return value;
}
KERNELDNA_INLINE Vec<float> sigmoid_of(Vec<float> value) {
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  const Vec<float> limit = splat(87.0f);
  const Vec<float> x = value > limit ? -limit : value < -limit ? limit : -value;
  // x = k ln 2 + r with |r| <= ln(2) / 2, so exp(x) = 2^k exp(r). Adding 1.5 * 2^23 rounds to the whole number k and
  // leaves it in the low bits; ln 2 comes in two parts, so that r keeps its digits.
  const Vec<float> shifted = x * 0x1.715476p+0f + 0x1.8p+23f;
  const Vec<float> k = shifted - 0x1.8p+23f;
  const Vec<float> r = (x - k * 0x1.62e4p-1f) - k * 0x1.7f7d1cp-20f;
  Vec<float> taylor = splat(1.0f / 5040);
  for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    taylor = taylor * r + coefficient;
  const Vec<float> power = reinterpret_cast<Vec<float>>((reinterpret_cast<Bits>(shifted) << 23) + 0x3f800000u);
  return value < -limit ? Vec<float>{} : 1 / (1 + taylor * power);
}

// gates[i] = 1 / (1 + exp(-logits[i])) for begin <= i < end; NaN stays.
template <class S, class T> void sigmoid(const void *logits, void *gates, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<T>;
  const T *x = static_cast<const T *>(logits);
  S *y = static_cast<S *>(gates);
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes)
    store(y + i, sigmoid_of(load(x + i)));
  if (i < end)
    store_first(y + i, sigmoid_of(load_first(x + i, end - i)), end - i);
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
