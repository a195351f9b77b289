// The kernels of squeeze_excite.h.
#pragma once

#include "ptx.h"
#include "squeeze_excite.h"
#include "squeeze_excite_dense.cuh"

#include <cmath>

namespace kerneldna::cuda::squeeze {

struct Layers {
  const void *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
  int channels, hidden;
  bool fc1_vectors, fc2_vectors;
};

// Arrays in shared memory, and the rows of each, start at multiples of 16 bytes.
__host__ __device__ inline int padded(int count) { return (count + 3) / 4 * 4; }

// The columns of fc1 that belong to some channels, and the rows of fc2.
template <class T> __device__ Matrix<T> fc1_of(const Layers &layers, int first_channel, int channels) {
  const T *weight = static_cast<const T *>(layers.fc1_weight);
  return {weight + first_channel, layers.hidden, channels, layers.channels, layers.fc1_vectors};
}
template <class T> __device__ Matrix<T> fc2_of(const Layers &layers, int first_channel, int channels) {
  const T *weight = static_cast<const T *>(layers.fc2_weight);
  return {weight + int64_t(first_channel) * layers.hidden, channels, layers.hidden, layers.hidden, layers.fc2_vectors};
}

template <class T> __device__ float bias_of(const void *bias, int i) {
  return bias ? to_compute(static_cast<const T *>(bias)[i]) : 0.0f;
}

__device__ float relu(float value) { return value < 0 ? 0.0f : value; } // lets NaN through, as torch's
__device__ float sigmoid(float value) { return 1.0f / (1.0f + std::exp(-value)); }

inline int64_t sample_shared_bytes(int channels, int hidden, int threads, int count) {
  return (2 * padded(channels) + padded(hidden) + int64_t(most_partials(threads, count, channels))) * sizeof(float);
}

// Everything in one launch. grid: samples.
template <class T>
__global__ void __launch_bounds__(kMostThreads, 1) squeeze_excite_kernel(Map map, Layers layers, void *gate) {
  KERNELDNA_SHARED(memory);
  const int channels = layers.channels, hidden = layers.hidden;
  float *const mean = reinterpret_cast<float *>(memory);
  float *const logits = mean + padded(channels);
  float *const features = logits + padded(channels);
  float *const partial = features + padded(hidden);

  const Slots slots = sum_pixels<T>(map, blockIdx.x, 0, channels, 0, map.pixels, partial);
  // Under way while the block adds up what its threads have summed.
  const Layer<T, 4> fc1(fc1_of<T>(layers, 0, channels));
  const Layer<T, 4> fc2(fc2_of<T>(layers, 0, channels));
  for (int r = threadIdx.x; r < hidden; r += blockDim.x)
    features[r] = bias_of<T>(layers.fc1_bias, r);
  for (int c = threadIdx.x; c < channels; c += blockDim.x)
    logits[c] = bias_of<T>(layers.fc2_bias, c);
  total_slots(slots, partial, [&](int c, float sum) { mean[c] = sum / float(map.pixels); });
  __syncthreads();
  fc1.template multiply<1>(mean, 0, [&](int r, int, float product) { features[r] = relu(features[r] + product); });
  __syncthreads();
  fc2.template multiply<1>(features, 0, [&](int c, int, float product) { logits[c] += product; });
  __syncthreads();
  T *const target = static_cast<T *>(gate) + int64_t(blockIdx.x) * channels;
  for (int c = threadIdx.x; c < channels; c += blockDim.x)
    target[c] = from_compute<T>(sigmoid(logits[c]));
}

// Rows of a weight at a time: fewer where every row has a sum for each of several samples.
template <int Samples> constexpr int kRows = Samples == 1 ? 4 : 2;

// The blocks of a launch: Samples samples each, and a slab of `width` channels. What the places of absent samples in
// shared memory hold is multiplied and thrown away.
template <int Samples> struct Block {
  int64_t first_sample;
  int samples, first_channel, channels;

  __device__ Block(int64_t index, int64_t batch, int channels, int width) {
    const int slabs = (channels + width - 1) / width;
    first_sample = index / slabs * Samples;
    samples = batch - first_sample < Samples ? int(batch - first_sample) : Samples;
    first_channel = int(index % slabs) * width;
    this->channels = channels - first_channel < width ? channels - first_channel : width;
  }
};

size_t squeeze_shared_bytes(int samples, int threads, int count, int slab) {
  return (size_t(samples) * padded(slab) + most_partials(threads, count, slab)) * sizeof(float);
}

// products [N, slabs * parts, R]: what fc1 makes of some channels and some pixels. grid: groups of samples * slabs *
// parts.
template <class T, int Samples>
__global__ void __launch_bounds__(kSqueezeThreads, 2)
    squeeze_kernel(Map map, Layers layers, int64_t batch, int parts, void *products) {
  KERNELDNA_SHARED(memory);
  let_next_kernel_start();
  const int part = blockIdx.x % parts;
  const Block<Samples> block(blockIdx.x / parts, batch, layers.channels, kSlab);
  const int per_part = (map.pixels + parts - 1) / parts, first = part * per_part;
  const int last = first + per_part < map.pixels ? first + per_part : map.pixels;
  const int stride = padded(layers.channels < kSlab ? layers.channels : kSlab);
  float *const mean = reinterpret_cast<float *>(memory);
  float *const partial = mean + Samples * stride;

  const Layer<T, kRows<Samples>> fc1(fc1_of<T>(layers, block.first_channel, block.channels));
  for (int s = 0; s < block.samples; ++s) {
    const Slots slots =
        sum_pixels<T>(map, block.first_sample + s, block.first_channel, block.channels, first, last, partial);
    total_slots(slots, partial, [&](int c, float sum) { mean[s * stride + c] = sum / float(map.pixels); });
    __syncthreads();
  }
  const int slabs = (layers.channels + kSlab - 1) / kSlab;
  const int share = block.first_channel / kSlab * parts + part;
  fc1.template multiply<Samples>(mean, stride, [&](int r, int s, float product) {
    const int64_t row = (block.first_sample + s) * slabs * parts + share;
    if (s < block.samples)
      static_cast<float *>(products)[row * layers.hidden + r] = product;
  });
}

size_t excite_shared_bytes(int samples, int hidden, int slab, int threads, int count) {
  return (size_t(samples) * (padded(hidden) + padded(slab)) + most_partials(threads, count, hidden)) * sizeof(float);
}

// The gate from the products: their sums are the features. grid: groups of samples * slabs.
template <class T, int Samples>
__global__ void __launch_bounds__(kMostThreads, 1)
    excite_kernel(Map products, Layers layers, int64_t batch, int slab, void *gate) {
  KERNELDNA_SHARED(memory);
  const Block<Samples> block(blockIdx.x, batch, layers.channels, slab);
  const int hidden = layers.hidden, stride = padded(hidden), logits_stride = padded(slab);
  float *const features = reinterpret_cast<float *>(memory);
  float *const logits = features + Samples * stride;
  float *const partial = logits + Samples * logits_stride;

  const Layer<T, kRows<Samples>> fc2(fc2_of<T>(layers, block.first_channel, block.channels));
  for (int s = 0; s < block.samples; ++s) {
    for (int r = threadIdx.x; r < hidden; r += blockDim.x)
      features[s * stride + r] = bias_of<T>(layers.fc1_bias, r);
    for (int c = threadIdx.x; c < block.channels; c += blockDim.x)
      logits[s * logits_stride + c] = bias_of<T>(layers.fc2_bias, block.first_channel + c);
  }
  wait_for_previous_kernel();
  for (int s = 0; s < block.samples; ++s) {
    const Slots slots = sum_pixels<float>(products, block.first_sample + s, 0, hidden, 0, products.pixels, partial);
    total_slots(slots, partial, [&](int r, float sum) {
      float &feature = features[s * stride + r];
      feature = relu(feature + sum);
    });
    __syncthreads();
  }
  fc2.template multiply<Samples>(features, stride,
                                 [&](int c, int s, float product) { logits[s * logits_stride + c] += product; });
  __syncthreads();
  for (int s = 0; s < block.samples; ++s)
    for (int c = threadIdx.x; c < block.channels; c += blockDim.x)
      static_cast<T *>(gate)[(block.first_sample + s) * layers.channels + block.first_channel + c] =
          from_compute<T>(sigmoid(logits[s * logits_stride + c]));
}

} // namespace kerneldna::cuda::squeeze
