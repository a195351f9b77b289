// The kernels of conv_gemm.h. A block computes a tile [BlockM pixels, BlockN filters]. Tiles of A, of B and of the
// channels' scale for Stages steps of BlockK along K are under way from global to shared memory (cp.async) while one is
// multiplied (tile_math.cuh).
#pragma once

#include "conv_gemm_tile.cuh"
#include "shared_banks.h"
#include "tile_math.cuh"

namespace kerneldna::cuda {

// What each thread would divide for, of one group.
struct GroupSizes {
  int channels, filters, filter_elements;
  int blocks; // of BlockK channels
};

template <class Math, int Stages_, bool Scaled_> struct ConvGemmTraits {
  using M = Math;
  using T = typename Math::T;
  static constexpr int kStages = Stages_;
  static constexpr bool kScaled = Scaled_;
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
  static constexpr int kTileA = kBlockM * Math::kLdA, kTileB = kBlockN * Math::kLdB;
  static constexpr int kCount = Vector<T>::kCount;
  static constexpr int kChunks = kBlockK / kCount;       // of a row of A, of B and of the scales
  static constexpr int kRowsAtOnce = kThreads / kChunks; // that the threads of a block load
  static constexpr int kRowsA = kBlockM / kRowsAtOnce, kRowsB = kBlockN / kRowsAtOnce; // of a thread
  static_assert(kThreads % kChunks == 0 && kBlockM % kRowsAtOnce == 0 && kBlockN % kRowsAtOnce == 0);

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
    const Geometry &g = p.geometry;
    const int tap = first_step / group.blocks;
    k = first_step % group.blocks * Traits::kBlockK;
    tap_row = tap / g.kernel_width;
    tap_column = tap % g.kernel_width;
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j) {
      const TileRow row = rows[row_of(j)];
      at_a[j] = static_cast<const T *>(p.input.data);
      if (row.sample >= 0)
        at_a[j] += (place.first_sample + row.sample) * p.input.sample_stride +
                   (row.row * g.stride[0] - g.padding[0]) * p.input.row_stride +
                   (row.column * g.stride[1] - g.padding[1]) * p.input.column_stride + tap_offset() +
                   place.group * group.channels + k + chunk;
    }
    look_at_tap();

    const int filter = place.first_column + row_of(0);
    at_b = static_cast<const T *>(p.weight) +
           ((place.group * group.filters + filter) * group.filter_elements + tap * group.channels + k + chunk);
    left_b = group.filters - filter;
  }

  // Copies the tiles of the next step to a stage.
  __device__ void load(T *stage) {
    const bool channel_exists = k + chunk < group.channels;
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j) {
      const bool valid = channel_exists && (in_image >> j & 1);
      cp_async(stage + row_of(j) * Math::kLdA + chunk, valid ? at_a[j] : static_cast<const T *>(p.input.data), valid);
    }

    T *const tile_b = stage + Traits::kTileA;
#pragma unroll
    for (int j = 0; j < Traits::kRowsB; ++j) {
      const int row = j * Traits::kRowsAtOnce;
      const bool valid = channel_exists && row < left_b;
      cp_async(tile_b + Math::at_b(row_of(j), chunk),
               valid ? at_b + row * group.filter_elements : static_cast<const T *>(p.weight), valid);
    }
    if constexpr (Traits::kScaled)
      load_scale(reinterpret_cast<int *>(tile_b + Traits::kTileB), tile_b + Traits::kTileB + Traits::kPlaces,
                 channel_exists);
    advance();
  }

private:
  // Of this thread's rows of A or B.
  __device__ static int row_of(int j) { return threadIdx.x / Traits::kChunks + j * Traits::kRowsAtOnce; }
  __device__ int64_t tap_offset() const {
    return tap_row * p.geometry.dilation[0] * p.input.row_stride +
           tap_column * p.geometry.dilation[1] * p.input.column_stride;
  }

  __device__ void look_at_tap() {
    const Geometry &g = p.geometry;
    const int first_row = tap_row * g.dilation[0] - g.padding[0];
    const int first_column = tap_column * g.dilation[1] - g.padding[1];
    in_image = 0;
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j) {
      const TileRow row = rows[row_of(j)];
      if (row.sample >= 0 && unsigned(first_row + row.row * g.stride[0]) < unsigned(g.in_height) &&
          unsigned(first_column + row.column * g.stride[1]) < unsigned(g.in_width))
        in_image |= 1u << j;
    }
  }

  // g of the samples of the tile, after the places of the rows.
  __device__ void load_scale(int *places, T *tile, bool channel_exists) {
    if (chunk == 0)
#pragma unroll
      for (int j = 0; j < Traits::kRowsA; ++j)
        places[row_of(j)] = (in_image >> j & 1 ? rows[row_of(j)].sample : samples) * Math::kLdA;
    const T *const scale = static_cast<const T *>(p.input_scale.data);
    const int tap = tap_row * p.geometry.kernel_width + tap_column;
    const int offset = tap * p.tap_stride + place.group * group.channels + k + chunk;
#pragma unroll 1
    for (int sample = row_of(0); sample < samples; sample += Traits::kRowsAtOnce) {
      const int64_t n = min(place.first_sample + sample, p.geometry.batch - 1); // no row has what is past it
      cp_async(tile + sample * Math::kLdA + chunk,
               channel_exists ? scale + n * p.input_scale.sample_stride + offset : scale, channel_exists);
    }
  }

  __device__ void advance() {
    int64_t step_a = Traits::kBlockK;
    int step_b = Traits::kBlockK;
    k += Traits::kBlockK;
    if (k >= group.channels) { // the next tap
      step_a -= k + tap_offset();
      step_b -= k - group.channels;
      k = 0;
      if (++tap_column == p.geometry.kernel_width) {
        tap_column = 0;
        ++tap_row;
      }
      step_a += tap_offset();
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
  int left_b;        // filters from this thread's first on
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

  const TilePlace place = tile_place<Traits::kBlockM, Traits::kBlockN>(p.geometry);
  fill_rows<Traits::kBlockM, Traits::kThreads>(p.geometry, place, rows);
  if constexpr (Traits::kScaled)
    for (int i = threadIdx.x; i < Traits::kStages * Math::kLdA; i += Traits::kThreads) {
      T *const scale = stages + i / Math::kLdA * stage_elements + Traits::kTileA + Traits::kTileB + Traits::kPlaces;
      scale[samples * Math::kLdA + i % Math::kLdA] = from_compute<T>(0);
    }
  __syncthreads();

  // The first parts of K have a step more where the parts do not come out even; none is empty.
  const int all = p.geometry.kernel_height * p.geometry.kernel_width * group.blocks, part = blockIdx.z;
  const int steps = all / gridDim.z, longer = all % gridDim.z, first = part * steps + min(part, longer);
  int left = steps + (part < longer);

  Math math(rows);
  {
    ConvGemmLoader<Traits> loader(p, group, place, rows, samples, first);
#pragma unroll
    for (int stage = 0; stage < Traits::kAhead; ++stage) {
      if (stage < left)
        loader.load(stages + stage * stage_elements);
      cp_async_commit();
    }
    int stage = 0, next_stage = Traits::kAhead;
    // At least once: a path from the zeros of an empty sum to the wait for products would make ptxas wait for each
    // wgmma on its own (C7515).
    do {
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
    } while (--left > 0);
    math.finish();
    cp_async_wait<0>();
  }
  __syncthreads();
  if (partial)
    let_next_kernel_start(); // the one that adds them up

  auto *const sums = reinterpret_cast<float *>(stages);
  math.store(sums, Traits::kLdSums);
  __syncthreads();
  if (!partial)
    return finish_tile<T, Traits::kBlockM, Traits::kBlockN, Traits::kThreads>(p, place, rows, sums, Traits::kLdSums);
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

// Adds up the partial sums of the splits, in order, and finishes the tiles. It has no part in what Scaled decides.
template <class T, int BlockM, int BlockN, int Threads>
__global__ void __launch_bounds__(Threads) conv_gemm_finish_kernel(const ConvGemm p, const float *partial, int splits) {
  KERNELDNA_SHARED(shared);
  wait_for_previous_kernel();
  TileRow *const rows = reinterpret_cast<TileRow *>(shared);
  auto *const sums = reinterpret_cast<float *>(rows + BlockM);
  const TilePlace place = tile_place<BlockM, BlockN>(p.geometry);
  fill_rows<BlockM, Threads>(p.geometry, place, rows);
  const int64_t tile = int64_t(blockIdx.y) * gridDim.x + blockIdx.x, tiles = int64_t(gridDim.y) * gridDim.x;
  for (int index = threadIdx.x; index < BlockM * BlockN; index += Threads) {
    float sum = 0;
#pragma unroll 4
    for (int split = 0; split < splits; ++split)
      sum += partial[(split * tiles + tile) * BlockM * BlockN + index];
    sums[index] = sum;
  }
  __syncthreads();
  finish_tile<T, BlockM, BlockN, Threads>(p, place, rows, sums, BlockN);
}

} // namespace kerneldna::cuda
