// What the depthwise kernels share: how the threads of a block lie over channels, and their loads and stores.
#pragma once

#include "conv_depthwise.h"
#include "tuning.h"

namespace kerneldna::cuda {

template <class T> __device__ inline Vector<T> load(const T *from) {
  return *reinterpret_cast<const Vector<T> *>(from);
}
template <class T> __device__ inline void unpack(const Vector<T> &vector, float (&values)[Vector<T>::kCount]) {
#pragma unroll
  for (int k = 0; k < vector.kCount; ++k)
    values[k] = to_compute(vector.values[k]);
}
// A bfloat16 is the upper half of a float32. Taken from whole registers: compilers that see 16-bit numbers give each a
// register of its own.
template <> __device__ inline void unpack(const Vector<__nv_bfloat16> &vector, float (&values)[8]) {
  const uint32_t *const pairs = reinterpret_cast<const uint32_t *>(&vector);
#pragma unroll
  for (int k = 0; k < 8; k += 2) {
    const uint32_t lower = pairs[k / 2] << 16, upper = pairs[k / 2] & 0xffff0000;
    values[k] = reinterpret_cast<const float &>(lower);
    values[k + 1] = reinterpret_cast<const float &>(upper);
  }
}
template <class T> __device__ inline Vector<T> pack(const float (&values)[Vector<T>::kCount]) {
  Vector<T> vector;
#pragma unroll
  for (int k = 0; k < vector.kCount; ++k)
    vector.values[k] = from_compute<T>(values[k]);
  return vector;
}

template <class T> __device__ inline float scale_at(const Scale &scale, int64_t sample, int i) {
  return scale.data ? to_compute(static_cast<const T *>(scale.data)[sample * scale.sample_stride + i]) : 1.0f;
}
template <class T> __device__ inline float weight_at(const DepthwiseWeight &weight, int channel, int u, int v) {
  return to_compute(static_cast<const T *>(
      weight.data)[channel * weight.channel_stride + u * weight.row_stride + v * weight.column_stride]);
}

struct SlabPlan {
  int channels; // of a sample
  int lanes;    // vectors of channels of a slab, a power of two
  int slabs;
};

// The place of a thread: threads of neighbouring lanes have neighbouring channels, those of one lane different pixels.
template <int Count> struct Slab {
  int lane, slot, slots;
  int first_channel; // of the block
  int channel;       // of the thread, its first

  __device__ Slab(const SlabPlan &plan, unsigned block)
      : lane(threadIdx.x % plan.lanes), slot(threadIdx.x / plan.lanes), slots(kDepthwiseThreads / plan.lanes),
        first_channel(int(block % plan.slabs) * plan.lanes * Count), channel(first_channel + lane * Count) {}
  __device__ static int channels(const SlabPlan &plan) { return plan.lanes * Count; }
};

// Rows of a number for each channel of the slab in shared memory, laid so that the lanes of a warp, which read 16 bytes
// each at a time, meet different banks.
template <int Count> class SlabRows {
public:
  __device__ SlabRows(float *data, const SlabPlan &plan) : data(data), lanes(plan.lanes) {}

  // A channel of the slab, or all of a lane.
  __device__ void put(int row, int channel, float value) { data[at(row, channel)] = value; }
  __device__ float get(int row, int channel) const { return data[at(row, channel)]; }
  __device__ void put(int row, int lane, const float (&values)[Count]) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Vector<float> of_part;
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        of_part.values[k] = values[part * kWidth + k];
      *reinterpret_cast<Vector<float> *>(data + at(row, lane * Count + part * kWidth)) = of_part;
    }
  }
  __device__ void get(int row, int lane, float (&values)[Count]) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const Vector<float> of_part = load(data + at(row, lane * Count + part * kWidth));
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        values[part * kWidth + k] = of_part.values[k];
    }
  }

private:
  static constexpr int kWidth = Vector<float>::kCount, kParts = Count / kWidth;

  __device__ int at(int row, int channel) const {
    const int lane = channel / Count, part = channel % Count / kWidth;
    return ((row * kParts + part) * lanes + lane) * kWidth + channel % kWidth;
  }

  float *data;
  int lanes;
};

} // namespace kerneldna::cuda
