// What a block of conv_gemm.cuh knows of its rows, and what it does with a tile of finished sums.
#pragma once

#include "conv_gemm.h"
#include "shared_banks.h"

namespace kerneldna::cuda {

// A row of a tile: a pixel of the output.
struct TileRow {
  int sample; // counted from the first of the tile; -1 past the last pixel
  int row, column;
};

// Where a block's tile stands.
struct TilePlace {
  int64_t first_sample;
  unsigned first_pixel; // of that sample
  int group, first_column;
  int columns; // of the tile, that exist in its group
};

template <int BlockM, int BlockN> __device__ inline TilePlace tile_place(const Geometry &g) {
  TilePlace place;
  const unsigned pixels = unsigned(g.out_height) * unsigned(g.out_width);
  const int64_t first = int64_t(blockIdx.x) * BlockM;
  // Exact below 2^52, and a fifth of the instructions of a division in 64 bits.
  place.first_sample = int64_t(double(first) / double(pixels));
  place.first_pixel = unsigned(first - place.first_sample * pixels);
  const int filters = g.out_channels / g.groups, blocks = (filters + BlockN - 1) / BlockN;
  place.group = blockIdx.y / blocks;
  place.first_column = blockIdx.y % blocks * BlockN;
  place.columns = min(BlockN, filters - place.first_column);
  return place;
}

template <int BlockM, int Threads>
__device__ inline void fill_rows(const Geometry &g, const TilePlace &place, TileRow *rows) {
  const unsigned width = g.out_width, pixels = unsigned(g.out_height) * width;
  const int64_t samples = g.batch - place.first_sample;
  for (int m = threadIdx.x; m < BlockM; m += Threads) {
    const unsigned sample = (place.first_pixel + m) / pixels, pixel = (place.first_pixel + m) % pixels;
    rows[m] = {sample < samples ? int(sample) : -1, int(pixel / width), int(pixel % width)};
  }
}

// A thread's columns of a row of sums; its neighbours have those before and behind. Eight are read by four, the second
// four first in every other four lanes: 16 bytes 32 bytes apart, of eight lanes at a time, would meet in their banks.
static_assert(bank_passes(4, [](int lane) { return lane * 8 + lane / 4 % 2 * 4; }) == 4);
static_assert(bank_passes(4, [](int lane) { return lane * 8; }) == 8);
__device__ inline void read_sums(const float *sums, float (&values)[8]) {
  const bool exchanged = threadIdx.x / 4 % 2;
  const auto *const parts = reinterpret_cast<const Vector<float> *>(sums);
  const Vector<float> one = parts[exchanged], other = parts[!exchanged];
#pragma unroll
  for (int v = 0; v < 4; ++v) {
    values[v] = exchanged ? other.values[v] : one.values[v];
    values[4 + v] = exchanged ? one.values[v] : other.values[v];
  }
}

// sums[BlockM][ld] in shared memory: those of the tile, over all of K. Ends without a barrier.
template <class T, int BlockM, int BlockN, int Threads>
__device__ void finish_tile(const ConvGemm &p, const TilePlace &place, const TileRow *rows, const float *sums, int ld) {
  const int first_channel = place.group * (p.geometry.out_channels / p.geometry.groups) + place.first_column;
  constexpr int kCount = Vector<T>::kCount, kChunks = BlockN / kCount;
  for (int index = threadIdx.x; index < BlockM * kChunks; index += Threads) {
    const int m = index / kChunks, column = index % kChunks * kCount;
    const TileRow row = rows[m];
    if (row.sample < 0 || column >= place.columns)
      continue;
    const int channel = first_channel + column;
    const int64_t sample = place.first_sample + row.sample;
    const auto load = [](const void *data, int64_t at) {
      return *reinterpret_cast<const Vector<T> *>(static_cast<const T *>(data) + at);
    };
    float values[kCount];
    read_sums(sums + m * ld + column, values);
    if (p.output_scale.data) {
      const Vector<T> scale = load(p.output_scale.data, sample * p.output_scale.sample_stride + channel);
      for (int v = 0; v < kCount; ++v)
        values[v] *= to_compute(scale.values[v]);
    }
    if (p.bias) {
      const Vector<T> bias = load(p.bias, channel);
      for (int v = 0; v < kCount; ++v)
        values[v] += to_compute(bias.values[v]);
    }
    Vector<T> result;
    for (int v = 0; v < kCount; ++v)
      result.values[v] = from_compute<T>(values[v]);
    *reinterpret_cast<Vector<T> *>(static_cast<T *>(p.output.data) + sample * p.output.sample_stride +
                                   row.row * p.output.row_stride + row.column * p.output.column_stride + channel) =
        result;
  }
}

} // namespace kerneldna::cuda
