// What the depthwise kernels share: how the threads of a block lie over channels, and their loads and stores.
#pragma once

#include "conv_depthwise.h"

namespace kerneldna::cuda {

constexpr int kDepthwiseThreads = 128;

// Count channels of a pixel, which one instruction moves.
template <class T, int Count> struct alignas(Count * sizeof(T)) Lanes {
  T values[Count];
};

template <class T, int Count> __device__ inline Lanes<T, Count> load(const T *from) {
  return *reinterpret_cast<const Lanes<T, Count> *>(from);
}
template <class T, int Count>
__device__ inline void unpack(const Lanes<T, Count> &lanes, compute_t<T> (&values)[Count]) {
#pragma unroll
  for (int k = 0; k < Count; ++k)
    values[k] = to_compute(lanes.values[k]);
}
// A bfloat16 is the upper half of a float32. Taken from whole registers: compilers that see 16-bit numbers give each a
// register of its own.
template <int Count>
__device__ inline void unpack(const Lanes<__nv_bfloat16, Count> &lanes, float (&values)[Count])
  requires(Count % 2 == 0)
{
  const uint32_t *const pairs = reinterpret_cast<const uint32_t *>(&lanes);
#pragma unroll
  for (int k = 0; k < Count; k += 2) {
    const uint32_t lower = pairs[k / 2] << 16, upper = pairs[k / 2] & 0xffff0000;
    values[k] = reinterpret_cast<const float &>(lower);
    values[k + 1] = reinterpret_cast<const float &>(upper);
  }
}
template <class T, int Count> __device__ inline Lanes<T, Count> pack(const compute_t<T> (&values)[Count]) {
  Lanes<T, Count> lanes;
#pragma unroll
  for (int k = 0; k < Count; ++k)
    lanes.values[k] = from_compute<T>(values[k]);
  return lanes;
}

template <class T> __device__ inline compute_t<T> scale_at(const Scale &scale, int64_t sample, int i) {
  return scale.data ? to_compute(static_cast<const T *>(scale.data)[sample * scale.sample_stride + i])
                    : compute_t<T>(1);
}
template <class T> __device__ inline compute_t<T> weight_at(const DepthwiseWeight &weight, int channel, int u, int v) {
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
template <class C, int Count> class SlabRows {
public:
  __device__ SlabRows(C *data, const SlabPlan &plan) : data(data), lanes(plan.lanes) {}

  // A channel of the slab, or all of a lane.
  __device__ void put(int row, int channel, C value) { data[at(row, channel)] = value; }
  __device__ C get(int row, int channel) const { return data[at(row, channel)]; }
  __device__ void put(int row, int lane, const C (&values)[Count]) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Lanes<C, kWidth> lanes_of_part;
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        lanes_of_part.values[k] = values[part * kWidth + k];
      *reinterpret_cast<Lanes<C, kWidth> *>(data + at(row, lane * Count + part * kWidth)) = lanes_of_part;
    }
  }
  __device__ void get(int row, int lane, C (&values)[Count]) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const auto lanes_of_part = load<C, kWidth>(data + at(row, lane * Count + part * kWidth));
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        values[part * kWidth + k] = lanes_of_part.values[k];
    }
  }

private:
  static constexpr int kWidth = Count * sizeof(C) > 16 ? 16 / sizeof(C) : Count, kParts = Count / kWidth;

  __device__ int at(int row, int channel) const {
    const int lane = channel / Count, part = channel % Count / kWidth;
    return ((row * kParts + part) * lanes + lane) * kWidth + channel % kWidth;
  }

  C *data;
  int lanes;
};

} // namespace kerneldna::cuda
