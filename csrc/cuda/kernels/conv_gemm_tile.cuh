// What a block of conv_gemm.cuh knows of its rows, and what it does with a tile of finished sums.
#pragma once

#include "conv_gemm.h"
#include "lattice.h"
#include "shared_banks.h"

namespace kerneldna::cuda {

// A row of a tile: a pixel of the lattice.
struct TileRow {
  int sample; // counted from the first of the tile; -1 past the last pixel
  int row, column;
};

// Where a block's tile stands.
struct TilePlace {
  LatticeTile at;
  int64_t first_sample;
  int64_t first_pixel; // of the class, flat over the samples
  int group, first_column;
  int columns; // of the tile, that exist in its group
};

template <int BlockM, int BlockN> __device__ inline TilePlace tile_place(const ConvGemm &p, bool transposed) {
  TilePlace place;
  place.at = lattice_tile(p.geometry, transposed, BlockM, blockIdx.x);
  place.first_pixel = place.at.tile * BlockM;
  // Exact below 2^52, and a fifth of the instructions of a division in 64 bits.
  place.first_sample = int64_t(double(place.first_pixel) / double(place.at.lattice.pixels()));
  const int per_group = (transposed ? p.geometry.in_channels : p.geometry.out_channels) / p.geometry.groups;
  const int blocks = (per_group + BlockN - 1) / BlockN;
  place.group = blockIdx.y / blocks;
  place.first_column = blockIdx.y % blocks * BlockN;
  place.columns = min(BlockN, per_group - place.first_column);
  return place;
}

template <int BlockM, int Threads>
__device__ inline void fill_rows(const ConvGemm &p, const TilePlace &place, TileRow *rows) {
  const unsigned pixels = unsigned(place.at.lattice.pixels()), width = unsigned(place.at.lattice.columns.size);
  const unsigned first = unsigned(place.first_pixel - place.first_sample * pixels);
  const int64_t samples = p.geometry.batch - place.first_sample;
  for (int m = threadIdx.x; m < BlockM; m += Threads) {
    const unsigned sample = (first + m) / pixels, pixel = (first + m) % pixels;
    rows[m] = {sample < samples ? int(sample) : -1, int(pixel / width), int(pixel % width)};
  }
}

// A thread's columns of a row of sums; its neighbours have those before and behind. Eight are read by four, the second
// four first in every other four lanes: 16 bytes 32 bytes apart, of eight lanes at a time, would meet in their banks.
static_assert(bank_passes(4, [](int lane) { return lane * 8 + lane / 4 % 2 * 4; }) == 4);
static_assert(bank_passes(4, [](int lane) { return lane * 8; }) == 8);
__device__ inline void read_sums(const float *sums, float (&values)[4]) {
  for (int v = 0; v < 4; ++v)
    values[v] = sums[v];
}
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
__device__ void finish_tile(const ConvGemm &p, const TilePlace &place, const TileRow *rows, const float *sums, int ld,
                            int tap) {
  const LatticeAxis &lattice_rows = place.at.lattice.rows, &lattice_columns = place.at.lattice.columns;
  const int per_group = (p.transposed ? p.geometry.in_channels : p.geometry.out_channels) / p.geometry.groups;
  const int first_channel = place.group * per_group + place.first_column;
  const auto offset = [&](const Image &image, const TileRow &row) {
    return (place.first_sample + row.sample) * image.sample_stride +
           (lattice_rows.target_origin + int64_t(row.row) * lattice_rows.target_step) * image.row_stride +
           (lattice_columns.target_origin + int64_t(row.column) * lattice_columns.target_step) * image.column_stride;
  };

  if (p.pixel_sums) {
    // A thread has a column of some rows, which it sums sample by sample.
    static_assert(Threads % BlockN == 0 && BlockM % (Threads / BlockN) == 0);
    constexpr int kRows = BlockM * BlockN / Threads;
    const int column = threadIdx.x % BlockN, part = threadIdx.x / BlockN;
    const int taps = p.by_tap ? p.geometry.kernel_height * p.geometry.kernel_width : 1;
    const int channels = p.transposed ? p.geometry.in_channels : p.geometry.out_channels;
    const int64_t tile = place.at.tile * (Threads / BlockN) + part;
    const int64_t first_slot =
        lattice_first_slot(p.geometry, p.transposed, kRows, place.at.row, place.at.column) + tile + place.first_sample;
    const TileRow *const part_rows = rows + part * kRows;
    const auto store = [&](int sample, float sum) {
      const int64_t slot = first_slot + sample;
      p.pixel_sums[(slot * taps + tap) * channels + first_channel + column] = sum;
    };
    if (column < place.columns && part_rows[0].sample >= 0) {
      int sample = part_rows[0].sample;
      float sum = 0;
#pragma unroll 4
      for (int m = 0; m < kRows; ++m) {
        const TileRow row = part_rows[m];
        if (row.sample < 0)
          break;
        if (row.sample != sample) {
          store(sample, sum);
          sample = row.sample;
          sum = 0;
        }
        const T other = static_cast<const T *>(p.partner.data)[offset(p.partner, row) + first_channel + column];
        sum += to_compute(other) * sums[(part * kRows + m) * ld + column];
      }
      store(sample, sum);
    }
  }

  if (!p.target.data)
    return;
  constexpr int kCount = Vector<T>::kCount;
  constexpr int kChunks = BlockN / kCount;
  for (int index = threadIdx.x; index < BlockM * kChunks; index += Threads) {
    const int m = index / kChunks, column = index % kChunks * kCount;
    const TileRow row = rows[m];
    if (row.sample < 0 || column >= place.columns)
      continue;
    const int channel = first_channel + column;
    const auto load = [](const void *data, int64_t at) {
      return *reinterpret_cast<const Vector<T> *>(static_cast<const T *>(data) + at);
    };
    float values[kCount];
    read_sums(sums + m * ld + column, values);
    if (p.target_scale.data) {
      const int64_t sample = place.first_sample + row.sample;
      const Vector<T> scale = load(p.target_scale.data, sample * p.target_scale.sample_stride + channel);
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
    *reinterpret_cast<Vector<T> *>(static_cast<T *>(p.target.data) + offset(p.target, row) + channel) = result;
  }
}

} // namespace kerneldna::cuda
