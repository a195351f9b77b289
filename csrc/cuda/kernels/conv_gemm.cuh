// The kernels of conv_gemm.h. A block computes a tile [BlockM pixels, BlockN channels]. Tiles of A, of B and of the
// channels' scale for Stages steps of BlockK along K are under way from global to shared memory (cp.async) while one is
// multiplied (tile_math.cuh).
#pragma once

#include "conv_gemm_tile.cuh"
#include "shared_banks.h"
#include "tile_math.cuh"

namespace kerneldna::cuda {

// What each thread would divide for, of one group: channels of A and of the weight, elements of a filter.
struct GroupSizes {
  int source_channels, in_channels, out_channels, filter_elements;
  int blocks; // of BlockK channels
};

template <class Math, int Stages_, bool Scaled_, bool Transposed_> struct ConvGemmTraits {
  using M = Math;
  using T = typename Math::T;
  static constexpr int kStages = Stages_;
  static constexpr bool kScaled = Scaled_, kTransposed = Transposed_;
  static constexpr int kThreads = Math::kThreads;
  static constexpr int kBlockM = Math::kBlockM, kBlockN = Math::kBlockN, kBlockK = Math::kBlockK;
  // Blocks on a multiprocessor: three of the smaller tiles.
  static constexpr int kMinBlocks = kBlockM * kBlockN > 128 * 128 ? 1 : kThreads == 128 ? 3 : 2;
  // Steps that are loaded ahead of the one that is multiplied. The other stages are still read.
  static constexpr int kAhead = kStages - 1 - Math::kStepsInFlight;
  static_assert(kAhead > 0);

  // Fragments of sums are stored as pairs, lane by lane of g = lane / 4 and t = lane % 4 to row g, column 2 t. Rows are
  // 8 words apart modulo the 32 banks, so that four rows of 8 words, half a warp's, meet in none.
  static constexpr int kLdSums = kBlockN + 8;
  static_assert(bank_passes(2, [](int lane) { return lane / 4 * kLdSums + lane % 4 * 2; }) == 2);
  static constexpr int kTileA = kBlockM * Math::kLdA, kTileB = (kTransposed ? kBlockK : kBlockN) * Math::kLdB;
  static constexpr int kCount = Vector<T>::kCount;
  static constexpr int kChunks = kBlockK / kCount; // of a row of A, and of the scales
  static_assert(kThreads % kChunks == 0 && kBlockM % (kThreads / kChunks) == 0);
  static constexpr int kRowsA = kBlockM / (kThreads / kChunks); // of a thread
  static constexpr int kChunksB = (kTransposed ? kBlockN : kBlockK) / kCount;
  static constexpr int kRowsB = (kTransposed ? kBlockK : kBlockN) * kChunksB / kThreads;
  static_assert(kThreads % kChunksB == 0 && kRowsB * kThreads == (kTransposed ? kBlockK : kBlockN) * kChunksB);

  __host__ __device__ static constexpr int aligned(int count) {
    return (count + Math::kStageAlignment - 1) / Math::kStageAlignment * Math::kStageAlignment;
  }
  // Before the stages: what is known of each row.
  static constexpr int kHeaderBytes = aligned(kBlockM * int(sizeof(TileRow)) / int(sizeof(T))) * int(sizeof(T));
  // A stage: A, B and, where scaled, the place of each row's scale, the scales of each sample and a row of zeros. That
  // is what the padding is multiplied with: an infinite scale must not make NaN of its zeros.
  static constexpr int kPlaces = kBlockM * int(sizeof(int)) / int(sizeof(T));
  static_assert(kTileA % Math::kStageAlignment == 0);
  __host__ __device__ static int stage_elements(int samples) {
    return aligned(kTileA + kTileB + (kScaled ? kPlaces + (samples + 1) * Math::kLdA : 0));
  }
  __host__ __device__ static int shared_bytes(int samples) {
    const int stages = kStages * stage_elements(samples) * int(sizeof(T));
    const int sums = kBlockM * kLdSums * int(sizeof(float));
    return kHeaderBytes + (stages > sums ? stages : sums);
  }
};

// A thread's way along K: where in global memory its part of the next step stands. From one step to the next the places
// move on by the same number of elements; only at a new tap is looked again which of them are in the image.
template <class Traits> class ConvGemmLoader {
  using T = typename Traits::T;
  using Math = typename Traits::M;

public:
  __device__ ConvGemmLoader(const ConvGemm &p, const GroupSizes &group, const TilePlace &place, const TileRow *rows,
                            int samples, int first_step)
      : p(p), group(group), place(place), rows(rows), samples(samples),
        chunk(threadIdx.x % Traits::kChunks * Traits::kCount) {
    const LatticeAxis &lr = place.at.lattice.rows, &lc = place.at.lattice.columns;
    k = first_step % group.blocks * Traits::kBlockK;
    tap_row = lc.taps ? first_step / group.blocks / lc.taps : 0;
    tap_column = lc.taps ? first_step / group.blocks % lc.taps : 0;
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j) {
      const TileRow row = rows[row_a(j)];
      at_a[j] = static_cast<const T *>(p.source.data);
      if (row.sample >= 0)
        at_a[j] += (place.first_sample + row.sample) * p.source.sample_stride +
                   (lr.source_origin + row.row * lr.source_step) * p.source.row_stride +
                   (lc.source_origin + row.column * lc.source_step) * p.source.column_stride + tap_offset() +
                   place.group * group.source_channels + k + chunk;
    }
    look_at_tap();

    // A row of B is a filter, or, where transposed, a channel of the source, which the weight calls a filter too.
    const int first = threadIdx.x / Traits::kChunksB, chunk_b = threadIdx.x % Traits::kChunksB * Traits::kCount;
    const int filter = (Traits::kTransposed ? k : place.first_column) + first;
    const int channel = (Traits::kTransposed ? place.first_column : k) + chunk_b;
    at_b = static_cast<const T *>(p.weight) +
           ((place.group * group.out_channels + filter) * group.filter_elements + tap() * group.in_channels + channel);
    // How many of the axis that B and A do not share are there, from this thread's first on.
    left_b = Traits::kTransposed ? group.in_channels - channel : group.out_channels - filter;
  }

  // Copies the tiles of the next step to a stage.
  __device__ void load(T *stage) {
    const bool channel_exists = k + chunk < group.source_channels;
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j) {
      const bool valid = channel_exists && (in_image >> j & 1);
      cp_async<16>(stage + row_a(j) * Math::kLdA + chunk, valid ? at_a[j] : static_cast<const T *>(p.source.data),
                   valid);
    }

    T *const tile_b = stage + Traits::kTileA;
    const int first = threadIdx.x / Traits::kChunksB, chunk_b = threadIdx.x % Traits::kChunksB * Traits::kCount;
#pragma unroll
    for (int j = 0; j < Traits::kRowsB; ++j) {
      const int row = j * (Traits::kThreads / Traits::kChunksB);
      const bool valid = Traits::kTransposed ? k + first + row < group.source_channels && left_b > 0
                                             : k + chunk_b < group.source_channels && row < left_b;
      cp_async<16>(tile_b + Math::at_b(first + row, chunk_b),
                   valid ? at_b + row * group.filter_elements : static_cast<const T *>(p.weight), valid);
    }
    if constexpr (Traits::kScaled)
      load_scale(reinterpret_cast<int *>(tile_b + Traits::kTileB), tile_b + Traits::kTileB + Traits::kPlaces,
                 channel_exists);
    advance();
  }

private:
  __device__ static int row_a(int j) {
    return threadIdx.x / Traits::kChunks + j * (Traits::kThreads / Traits::kChunks);
  }
  __device__ int tap() const {
    const LatticeAxis &lr = place.at.lattice.rows, &lc = place.at.lattice.columns;
    return (lr.first_tap + tap_row * lr.tap_stride) * p.geometry.kernel_width + lc.first_tap +
           tap_column * lc.tap_stride;
  }
  __device__ int64_t tap_offset() const {
    return tap_row * place.at.lattice.rows.tap_step * p.source.row_stride +
           tap_column * place.at.lattice.columns.tap_step * p.source.column_stride;
  }

  __device__ void look_at_tap() {
    const LatticeAxis &lr = place.at.lattice.rows, &lc = place.at.lattice.columns;
    const int first_row = lr.source_origin + tap_row * lr.tap_step;
    const int first_column = lc.source_origin + tap_column * lc.tap_step;
    const unsigned height = Traits::kTransposed ? p.geometry.out_height : p.geometry.in_height;
    const unsigned width = Traits::kTransposed ? p.geometry.out_width : p.geometry.in_width;
    in_image = 0;
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j) {
      const TileRow row = rows[row_a(j)];
      if (row.sample >= 0 && unsigned(first_row + row.row * lr.source_step) < height &&
          unsigned(first_column + row.column * lc.source_step) < width)
        in_image |= 1u << j;
    }
  }

  // g of the samples of the tile, after the places of the rows.
  __device__ void load_scale(int *places, T *tile, bool channel_exists) {
    if (chunk == 0)
#pragma unroll
      for (int j = 0; j < Traits::kRowsA; ++j)
        places[row_a(j)] = (in_image >> j & 1 ? rows[row_a(j)].sample : samples) * Math::kLdA;
    const T *const scale = static_cast<const T *>(p.source_scale.data);
    const int offset = tap() * p.tap_stride + place.group * group.source_channels + k + chunk;
#pragma unroll 1
    for (int sample = threadIdx.x / Traits::kChunks; sample < samples; sample += Traits::kThreads / Traits::kChunks) {
      const int64_t n = min(place.first_sample + sample, p.geometry.batch - 1); // no row has what is past it
      cp_async<16>(tile + sample * Math::kLdA + chunk,
                   channel_exists ? scale + n * p.source_scale.sample_stride + offset : scale, channel_exists);
    }
  }

  __device__ void advance() {
    int64_t step_a = Traits::kBlockK;
    int step_b = Traits::kTransposed ? Traits::kBlockK * group.filter_elements : Traits::kBlockK;
    k += Traits::kBlockK;
    const bool is_next_tap = k >= group.source_channels;
    if (is_next_tap) {
      step_a -= k + tap_offset();
      step_b -= (Traits::kTransposed ? k * group.filter_elements : k) + tap() * group.in_channels;
      k = 0;
      if (++tap_column == place.at.lattice.columns.taps) {
        tap_column = 0;
        ++tap_row;
      }
      step_a += tap_offset();
      step_b += tap() * group.in_channels;
      look_at_tap();
    }
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j)
      at_a[j] += step_a;
    at_b += step_b;
  }

  const ConvGemm &p;
  const GroupSizes &group;
  const TilePlace &place;
  const TileRow *rows;
  // Where the next step stands; out of the tensor where it is not read.
  const T *at_a[Traits::kRowsA], *at_b;
  int samples, chunk;
  int k, tap_row, tap_column;
  unsigned in_image; // a bit for each row of A
  int left_b;
  static_assert(Traits::kRowsA <= 32);
};

template <class Traits>
__device__ void conv_gemm_tile(const ConvGemm &p, const GroupSizes &group, float *partial, int samples) {
  using T = typename Traits::T;
  using Math = typename Traits::M;
  KERNELDNA_SHARED(shared);
  TileRow *const rows = reinterpret_cast<TileRow *>(shared);
  T *const stages = reinterpret_cast<T *>(shared + Traits::kHeaderBytes);
  const int stage_elements = Traits::stage_elements(samples);

  const TilePlace place = tile_place<Traits::kBlockM, Traits::kBlockN>(p, Traits::kTransposed);
  fill_rows<Traits::kBlockM, Traits::kThreads>(p, place, rows);
  if constexpr (Traits::kScaled)
    for (int i = threadIdx.x; i < Traits::kStages * Math::kLdA; i += Traits::kThreads) {
      T *const scale = stages + i / Math::kLdA * stage_elements + Traits::kTileA + Traits::kTileB + Traits::kPlaces;
      scale[samples * Math::kLdA + i % Math::kLdA] = from_compute<T>(0);
    }
  __syncthreads();

  const int all = place.at.lattice.taps() * group.blocks;
  // The first parts of K have a step more where the parts do not come out even.
  const int steps = all / gridDim.z, longer = all % gridDim.z, part = blockIdx.z;
  const int first = part * steps + min(part, longer), last = first + steps + (part < longer);

  Math math(rows);
  {
    ConvGemmLoader<Traits> loader(p, group, place, rows, samples, first);
#pragma unroll
    for (int stage = 0; stage < Traits::kAhead; ++stage) {
      if (first + stage < last)
        loader.load(stages + stage * stage_elements);
      cp_async_commit();
    }
    int stage = 0, next_stage = Traits::kAhead;
    // The products are waited for only where there were some: a path from the zeros of an empty sum to the wait would
    // make ptxas wait for each wgmma on its own (C7515).
    if (first < last) {
      for (int left = last - first; left > 0; --left) {
        cp_async_wait<Traits::kAhead - 1>();
        math.publish();
        __syncthreads();
        if (left > Traits::kAhead)
          loader.load(stages + next_stage * stage_elements);
        cp_async_commit();

        const T *const a = stages + stage * stage_elements, *const b = a + Traits::kTileA,
                       *const places = b + Traits::kTileB;
        math.template step<Traits::kScaled>(a, b, reinterpret_cast<const int *>(places), places + Traits::kPlaces);
        stage = stage + 1 == Traits::kStages ? 0 : stage + 1;
        next_stage = next_stage + 1 == Traits::kStages ? 0 : next_stage + 1;
      }
      math.finish();
    }
    cp_async_wait<0>();
  }
  __syncthreads();
  if (partial)
    let_next_kernel_start(); // the one that adds them up

  auto *const sums = reinterpret_cast<float *>(stages);
  math.store(sums, Traits::kLdSums);
  __syncthreads();
  if (!partial)
    return finish_tile<T, Traits::kBlockM, Traits::kBlockN, Traits::kThreads>(p, place, rows, sums, Traits::kLdSums,
                                                                              p.by_tap ? blockIdx.z : 0);
  partial +=
      ((int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * Traits::kBlockM * Traits::kBlockN;
  for (int index = threadIdx.x; index < Traits::kBlockM * Traits::kBlockN; index += Traits::kThreads)
    partial[index] = sums[index / Traits::kBlockN * Traits::kLdSums + index % Traits::kBlockN];
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks)
    conv_gemm_kernel(const ConvGemm p, const GroupSizes group, float *partial, int samples) {
  if constexpr (Traits::M::kIsCompiled)
    conv_gemm_tile<Traits>(p, group, partial, samples);
  else
    __trap();
}

// Adds up the partial sums of the splits, in order, and finishes the tiles. It has no part in what Transposed and
// Scaled decide.
template <class T, int BlockM, int BlockN, int Threads>
__global__ void __launch_bounds__(Threads) conv_gemm_finish_kernel(const ConvGemm p, const float *partial, int splits) {
  KERNELDNA_SHARED(shared);
  wait_for_previous_kernel();
  TileRow *const rows = reinterpret_cast<TileRow *>(shared);
  auto *const sums = reinterpret_cast<float *>(rows + BlockM);
  const TilePlace place = tile_place<BlockM, BlockN>(p, p.transposed);
  fill_rows<BlockM, Threads>(p, place, rows);
  const int64_t tile = int64_t(blockIdx.y) * gridDim.x + blockIdx.x, tiles = int64_t(gridDim.y) * gridDim.x;
  for (int index = threadIdx.x; index < BlockM * BlockN; index += Threads) {
    float sum = 0;
#pragma unroll 4
    for (int split = 0; split < splits; ++split)
      sum += partial[(split * tiles + tile) * BlockM * BlockN + index];
    sums[index] = sum;
  }
  __syncthreads();
  finish_tile<T, BlockM, BlockN, Threads>(p, place, rows, sums, BlockN, 0);
}

} // namespace kerneldna::cuda
