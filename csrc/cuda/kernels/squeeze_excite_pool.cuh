// Sums over the pixels of a sample, made by one block.
#pragma once

#include "dtypes.h"
#include "tuning.h"

#include <cstring>

namespace kerneldna::cuda::squeeze {

// Numbers that one instruction loads.
template <class T, int Count> struct alignas(Count * sizeof(T)) Piece {
  T values[Count];
};

// Zeros where it is not valid, and nothing is read then. By way of whole registers, lest each number be set to zero by
// itself.
template <int Count, class T> __device__ Piece<T, Count> load_if(bool valid, const T *from) {
  Piece<T, Count> piece;
#ifdef KERNELDNA_HOST_EXECUTION
  if (valid && reinterpret_cast<uintptr_t>(from) % sizeof(piece)) // which a GPU would not load
    __trap();
#endif
  if constexpr (sizeof(piece) == 16) {
    uint4 registers = {0, 0, 0, 0};
    if (valid)
      registers = *reinterpret_cast<const uint4 *>(from);
    memcpy(&piece, &registers, sizeof(piece));
  } else {
    piece = {};
    if (valid)
      piece = *reinterpret_cast<const Piece<T, Count> *>(from);
  }
  return piece;
}

enum class Walk {
  vectors,  // neighbouring threads take neighbouring channels, which are adjacent in memory, 16 bytes each
  channels, // the same, one number each: any strides
  pixels    // neighbouring threads take neighbouring pixels, which are adjacent: 16 bytes each but at the ends
};

struct Map {
  const void *data;
  int64_t sample_stride, channel_stride, row_stride, column_stride;
  int pixels, width; // width is all pixels where one stride leads from each to the next
  Walk walk;
};

// What sum_pixels leaves to add up: channel column * count + e has the sums
// partial[(e * slots + slot) * columns + column]. Neighbouring threads hold neighbouring columns, so that neither
// writing nor reading meets a bank twice.
struct Slots {
  int count, slots, columns;
};

// Numbers that sum_pixels writes to `partial` at most.
__host__ __device__ inline int most_partials(int threads, int count, int channels) {
  const int columns = channels / count;
  return columns < threads ? threads * count : channels;
}

__device__ float sum_of(const float (&terms)[kLoads]) {
  return ((terms[0] + terms[1]) + (terms[2] + terms[3])) + ((terms[4] + terms[5]) + (terms[6] + terms[7]));
}

// x points at the first channel; count divides channels.
template <class T, int Count>
__device__ Slots sum_along_channels(const Map &map, const T *x, int channels, int first, int last, float *partial) {
  const int columns = channels / Count, threads = blockDim.x;
  const int per_pixel = columns < threads ? threads / columns : 1;
  const int slots = per_pixel < last - first ? per_pixel : last - first;
  const int64_t step = slots * map.column_stride;
  for (int i = threadIdx.x; i < slots * columns; i += threads) {
    const int slot = i / columns, column = i % columns;
    float sums[Count] = {};
    for (int row = first / map.width; row * map.width < last; ++row) {
      const int begin = first - row * map.width > 0 ? first - row * map.width : 0;
      const int end = last - row * map.width < map.width ? last - row * map.width : map.width;
      const T *at = x + column * Count * map.channel_stride + row * map.row_stride + (begin + slot) * map.column_stride;
      for (int pixel = begin + slot; pixel < end;) {
        float some[Count] = {};
        for (int n = 0; n < kSteps && pixel < end; ++n, pixel += kLoads * slots) {
          Piece<T, Count> loaded[kLoads];
          for (int k = 0; k < kLoads; ++k, at += step)
            loaded[k] = load_if<Count>(pixel + k * slots < end, at);
          for (int e = 0; e < Count; ++e) {
            float terms[kLoads];
            for (int k = 0; k < kLoads; ++k)
              terms[k] = to_compute(loaded[k].values[e]);
            some[e] += sum_of(terms);
          }
        }
        for (int e = 0; e < Count; ++e)
          sums[e] += some[e];
      }
    }
    for (int e = 0; e < Count; ++e)
      partial[(e * slots + slot) * columns + column] = sums[e];
  }
  return {Count, slots, columns};
}

// A power of two, so many that each has one piece of a row, but a warp at most.
__device__ inline int lanes_for(int pieces) {
  int lanes = 1;
  while (lanes < pieces && lanes < 32)
    lanes *= 2;
  return lanes;
}

// Groups of lanes take a channel each, several at a time. Its pixels are vectors between two boundaries of 16 bytes and
// single numbers before and after.
template <class T>
__device__ Slots sum_along_pixels(const Map &map, const T *x, int channels, int first, int last, float *partial) {
  constexpr int kCount = Vector<T>::kCount, kChannels = 4;
  const int length = last - first, lanes = lanes_for(length / kCount);
  const int group = threadIdx.x / lanes, lane = threadIdx.x % lanes, groups = blockDim.x / lanes;
  for (int begin = 0; begin < channels; begin += groups * kChannels) {
    const T *run[kChannels];
    int head[kChannels], vectors[kChannels];
    float sums[kChannels] = {};
    for (int k = 0; k < kChannels; ++k) {
      const int channel = begin + group + k * groups;
      run[k] = x + (channel < channels ? channel : 0) * map.channel_stride + first;
      const int before = reinterpret_cast<uintptr_t>(run[k]) / sizeof(T) % kCount;
      head[k] = before ? kCount - before : 0;
      head[k] = head[k] < length ? head[k] : length;
      vectors[k] = (length - head[k]) / kCount;
    }
    for (int i = lane; i <= length / kCount;) {
      float some[kChannels] = {};
      for (int n = 0; n < kSteps && i <= length / kCount; ++n, i += lanes) {
        Piece<T, kCount> loaded[kChannels];
        for (int k = 0; k < kChannels; ++k)
          loaded[k] = load_if<kCount>(i < vectors[k], run[k] + head[k] + i * kCount);
        for (int k = 0; k < kChannels; ++k) {
          float sum = 0;
          for (int e = 0; e < kCount; ++e)
            sum += to_compute(loaded[k].values[e]);
          some[k] += sum;
        }
      }
      for (int k = 0; k < kChannels; ++k)
        sums[k] += some[k];
    }
    for (int i = lane; i < 2 * (kCount - 1); i += lanes)
      for (int k = 0; k < kChannels; ++k) {
        const int pixel = i < head[k] ? i : i + vectors[k] * kCount;
        if (pixel < length)
          sums[k] += to_compute(run[k][pixel]);
      }
    for (int k = 0; k < kChannels; ++k) {
      for (int offset = lanes / 2; offset; offset /= 2)
        sums[k] += __shfl_xor_sync(0xffffffffu, sums[k], offset);
      const int channel = begin + group + k * groups;
      if (lane == 0 && channel < channels)
        partial[channel] = sums[k];
    }
  }
  return {1, 1, channels};
}

// Sums of pixels [first, last) of some channels of a sample, for total_slots.
template <class T>
__device__ Slots sum_pixels(const Map &map, int64_t sample, int first_channel, int channels, int first, int last,
                            float *partial) {
  const T *x = static_cast<const T *>(map.data) + sample * map.sample_stride + first_channel * map.channel_stride;
  if (map.walk == Walk::vectors)
    return sum_along_channels<T, Vector<T>::kCount>(map, x, channels, first, last, partial);
  if (map.walk == Walk::channels)
    return sum_along_channels<T, 1>(map, x, channels, first, last, partial);
  return sum_along_pixels<T>(map, x, channels, first, last, partial);
}

// emit(channel, sum) once for each channel, by some thread.
template <class Emit> __device__ void total_slots(const Slots &left, float *partial, Emit emit) {
  constexpr int kMost = 32; // sums that one thread adds up: of more, first several threads some each
  const int slots = left.slots < kMost ? left.slots : kMost, channels = left.count * left.columns;
  __syncthreads();
  if (left.slots > kMost) {
    for (int i = threadIdx.x; i < kMost * channels; i += blockDim.x) {
      const int column = i % left.columns, slot = i / left.columns % kMost, e = i / (kMost * left.columns);
      float *const sums = partial + e * left.slots * left.columns + column;
      float sum = sums[slot * left.columns];
      for (int other = slot + kMost; other < left.slots; other += kMost)
        sum += sums[other * left.columns];
      sums[slot * left.columns] = sum;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < channels; i += blockDim.x) {
    const int column = i % left.columns, e = i / left.columns;
    float sum = 0;
    for (int slot = 0; slot < slots; ++slot)
      sum += partial[(e * left.slots + slot) * left.columns + column];
    emit(column * left.count + e, sum);
  }
}

} // namespace kerneldna::cuda::squeeze
