// The kernels of conv_gemm.h. A block computes a tile [BlockM pixels, BlockN channels]. Tiles of A, of B and of the
// channels' scale for Stages steps of BlockK along K are under way from global to shared memory (cp.async) while one is
// multiplied (tile_math.cuh).
#pragma once

#include "conv_gemm_tile.cuh"
#include "tile_math.cuh"

namespace kerneldna::cuda {

// One number, or 16 bytes of them, into shared memory, or zeros. 16-bit numbers alone are less than cp.async moves.
template <class T, bool IsVector> __device__ inline void copy_async(T *target, const T *source, bool valid) {
  if constexpr (IsVector)
    cp_async<16>(target, source, valid);
  else if constexpr (sizeof(T) >= 4)
    cp_async<int(sizeof(T))>(target, source, valid);
  else
    *target = valid ? *source : from_compute<T>(0);
}

template <class Math, int Stages_, bool IsVector_, bool Scaled_, bool Transposed_> struct ConvGemmTraits {
  using M = Math;
  using T = typename Math::T;
  static constexpr int kStages = Stages_;
  static constexpr bool kVector = IsVector_, kScaled = Scaled_, kTransposed = Transposed_;
  static constexpr int kThreads = Math::kThreads;
  static constexpr int kBlockM = Math::kBlockM, kBlockN = Math::kBlockN, kBlockK = Math::kBlockK;
  // Blocks on a multiprocessor: three of the smaller tiles, unless a thread keeps many rows in mind to load number by
  // number.
  static constexpr int kMinBlocks = sizeof(T) == 8 ? 1 : kVector && kBlockM * kBlockN < 128 * 128 ? 3 : 2;

  static constexpr int kLdSums = kBlockN + 4;
  static constexpr int kTileA = kBlockM * Math::kLdA, kTileB = (kTransposed ? kBlockK : kBlockN) * Math::kLdB;
  static constexpr int kCount = kVector ? Vector<T>::kCount : 1;
  static constexpr int kChunks = kBlockK / kCount; // of a row of A, and of the scales
  static_assert(kThreads % kChunks == 0 && kBlockM % (kThreads / kChunks) == 0);
  static constexpr int kRowsA = kBlockM / (kThreads / kChunks); // of a thread
  static constexpr int kChunksB = (kTransposed ? kBlockN : kBlockK) / kCount;
  static constexpr int kRowsB = (kTransposed ? kBlockK : kBlockN) * kChunksB / kThreads;
  static_assert(kThreads % kChunksB == 0 && kRowsB * kThreads == (kTransposed ? kBlockK : kBlockN) * kChunksB);

  // Before the stages: what is known of each row, and the tap of each stage.
  static constexpr int kHeaderBytes =
      (kBlockM * int(sizeof(TileRow) + sizeof(int)) + kStages * int(sizeof(int)) + 15) / 16 * 16;
  __host__ __device__ static int stage_elements(int samples) {
    const int all = kTileA + kTileB + (kScaled ? samples * Math::kLdA : 0);
    return (all + 7) / 8 * 8; // so that every stage starts at 16 bytes
  }
  __host__ __device__ static int shared_bytes(int samples) {
    const int stages = kStages * stage_elements(samples) * int(sizeof(T));
    const int sums = kBlockM * kLdSums * int(sizeof(compute_t<T>));
    return kHeaderBytes + (stages > sums ? stages : sums);
  }
};

// The block's way along K: what the next step reads.
template <class Traits> class ConvGemmLoader {
  using T = typename Traits::T;
  using Math = typename Traits::M;

public:
  __device__ ConvGemmLoader(const ConvGemm &p, const TilePlace &place, const TileRow *rows, int samples, int first_step)
      : p(p), place(place), samples(samples) {
    const Geometry &g = p.geometry;
    source_channels = (Traits::kTransposed ? g.out_channels : g.in_channels) / g.groups;
    filter_elements = g.kernel_height * g.kernel_width * (g.in_channels / g.groups);
    const int blocks = (source_channels + Traits::kBlockK - 1) / Traits::kBlockK;
    const LatticeAxis &lr = place.at.lattice.rows, &lc = place.at.lattice.columns;
    k = first_step % blocks * Traits::kBlockK;
    tap_row = lc.taps ? first_step / blocks / lc.taps : 0;
    tap_column = lc.taps ? first_step / blocks % lc.taps : 0;
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j) {
      const TileRow row = rows[row_a(j)];
      // A row that is not there reads a pixel that no tap brings back into the image.
      source_row[j] = row.sample < 0 ? kOutside : lr.source_origin + row.row * lr.source_step;
      source_column[j] = lc.source_origin + row.column * lc.source_step;
      source_offset[j] = row.sample < 0 ? 0
                                        : row.sample * p.source.sample_stride + source_row[j] * p.source.row_stride +
                                              source_column[j] * p.source.column_stride;
    }
    source = static_cast<const T *>(p.source.data) + place.first_sample * p.source.sample_stride +
             place.group * source_channels;
  }

  // Copies the tiles of the next step to a stage, and the number of its tap.
  __device__ void load(T *stage, int *stage_tap) {
    const Geometry &g = p.geometry;
    const LatticeAxis &lr = place.at.lattice.rows, &lc = place.at.lattice.columns;
    const int height = Traits::kTransposed ? g.out_height : g.in_height;
    const int width = Traits::kTransposed ? g.out_width : g.in_width;

    const int down = tap_row * lr.tap_step, right = tap_column * lc.tap_step;
    const int chunk = threadIdx.x % Traits::kChunks * Traits::kCount;
    const int64_t step_offset = down * p.source.row_stride + right * p.source.column_stride + k + chunk;
    const bool channel_exists = k + chunk < source_channels;
#pragma unroll
    for (int j = 0; j < Traits::kRowsA; ++j) {
      const bool valid = channel_exists && unsigned(source_row[j] + down) < unsigned(height) &&
                         unsigned(source_column[j] + right) < unsigned(width);
      copy_async<T, Traits::kVector>(stage + row_a(j) * Math::kLdA + chunk,
                                     valid ? source + (source_offset[j] + step_offset) : source, valid);
    }

    // A row of B is a filter, or, where transposed, a channel of the source, which the weight calls a filter too.
    const int tap =
        (lr.first_tap + tap_row * lr.tap_stride) * g.kernel_width + lc.first_tap + tap_column * lc.tap_stride;
    if (Traits::kScaled && threadIdx.x == 0)
      *stage_tap = tap;
    const int in_channels = g.in_channels / g.groups, out_channels = g.out_channels / g.groups;
    const T *const weight = static_cast<const T *>(p.weight) + int64_t(place.group) * out_channels * filter_elements;
    T *const tile_b = stage + Traits::kTileA;
    const int chunk_b = threadIdx.x % Traits::kChunksB * Traits::kCount;
#pragma unroll
    for (int j = 0; j < Traits::kRowsB; ++j) {
      const int row = threadIdx.x / Traits::kChunksB + j * (Traits::kThreads / Traits::kChunksB);
      const int filter = Traits::kTransposed ? k + row : place.first_column + row;
      const int channel = Traits::kTransposed ? place.first_column + chunk_b : k + chunk_b;
      const bool valid = filter < out_channels && channel < in_channels;
      copy_async<T, Traits::kVector>(tile_b + row * Math::kLdB + chunk_b,
                                     valid ? weight + (filter * filter_elements + tap * in_channels + channel) : weight,
                                     valid);
    }

    if constexpr (Traits::kScaled)
      if (p.source_scale.data) {
        const T *const scale = static_cast<const T *>(p.source_scale.data) +
                               place.first_sample * p.source_scale.sample_stride + place.group * source_channels + k +
                               chunk;
        T *const tile_scale = tile_b + Traits::kTileB;
        for (int sample = threadIdx.x / Traits::kChunks; sample < samples;
             sample += Traits::kThreads / Traits::kChunks) {
          const bool valid = channel_exists && place.first_sample + sample < g.batch;
          copy_async<T, Traits::kVector>(tile_scale + sample * Math::kLdA + chunk,
                                         valid ? scale + sample * p.source_scale.sample_stride
                                               : static_cast<const T *>(p.source_scale.data),
                                         valid);
        }
      }

    k += Traits::kBlockK;
    if (k >= source_channels) {
      k = 0;
      if (++tap_column == lc.taps) {
        tap_column = 0;
        ++tap_row;
      }
    }
  }

private:
  static constexpr int kOutside = -(1 << 30);

  __device__ static int row_a(int j) {
    return threadIdx.x / Traits::kChunks + j * (Traits::kThreads / Traits::kChunks);
  }

  const ConvGemm &p;
  const TilePlace &place;
  const T *source;
  int samples, source_channels, filter_elements;
  int k, tap_row, tap_column;
  int source_row[Traits::kRowsA], source_column[Traits::kRowsA];
  int64_t source_offset[Traits::kRowsA];
};

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks)
    conv_gemm_kernel(const ConvGemm p, compute_t<typename Traits::T> *partial, int samples) {
  using T = typename Traits::T;
  using Math = typename Traits::M;
  KERNELDNA_SHARED(shared);
  TileRow *const rows = reinterpret_cast<TileRow *>(shared);
  int *const row_samples = reinterpret_cast<int *>(rows + Traits::kBlockM);
  int *const stage_taps = row_samples + Traits::kBlockM;
  T *const stages = reinterpret_cast<T *>(shared + Traits::kHeaderBytes);
  const int stage_elements = Traits::stage_elements(samples);

  const TilePlace place = tile_place<Traits::kBlockM, Traits::kBlockN>(p, Traits::kTransposed);
  fill_rows<Traits::kBlockM, Traits::kThreads>(p, place, rows);
  for (int m = threadIdx.x; m < Traits::kBlockM; m += Traits::kThreads)
    row_samples[m] = max(rows[m].sample, 0);
  __syncthreads();

  const int source_channels =
      (Traits::kTransposed ? p.geometry.out_channels : p.geometry.in_channels) / p.geometry.groups;
  const int blocks = (source_channels + Traits::kBlockK - 1) / Traits::kBlockK;
  const int all = place.at.lattice.taps() * blocks;
  const int first = int(int64_t(all) * blockIdx.z / gridDim.z), last = int(int64_t(all) * (blockIdx.z + 1) / gridDim.z);

  Math math(row_samples);
  {
    ConvGemmLoader<Traits> loader(p, place, rows, samples, first);
#pragma unroll
    for (int stage = 0; stage < Traits::kStages - 1; ++stage) {
      if (first + stage < last)
        loader.load(stages + stage * stage_elements, stage_taps + stage);
      cp_async_commit();
    }
    int stage = 0, next_stage = Traits::kStages - 1;
    for (int step = first; step < last; ++step) {
      cp_async_wait<Traits::kStages - 2>();
      __syncthreads();
      if (step + Traits::kStages - 1 < last)
        loader.load(stages + next_stage * stage_elements, stage_taps + next_stage);
      cp_async_commit();

      const T *const tile = stages + stage * stage_elements;
      StepScale<T> scale{};
      if constexpr (Traits::kScaled) {
        if (p.source_scale.data)
          scale.channel = tile + Traits::kTileA + Traits::kTileB;
        if (p.tap_scale.data) {
          scale.tap = static_cast<const T *>(p.tap_scale.data) + place.first_sample * p.tap_scale.sample_stride +
                      stage_taps[stage];
          scale.tap_sample_stride = int(p.tap_scale.sample_stride);
        }
      }
      math.template step<Traits::kScaled>(tile, tile + Traits::kTileA, scale);
      stage = stage + 1 == Traits::kStages ? 0 : stage + 1;
      next_stage = next_stage + 1 == Traits::kStages ? 0 : next_stage + 1;
    }
    cp_async_wait<0>();
  }
  __syncthreads();
  let_next_kernel_start();

  auto *const sums = reinterpret_cast<compute_t<T> *>(stages);
  math.store(sums, Traits::kLdSums);
  __syncthreads();
  if (!partial)
    return finish_tile<T, Traits::kBlockM, Traits::kBlockN, Traits::kThreads, Traits::kVector>(
        p, place, rows, sums, Traits::kLdSums, p.by_tap ? blockIdx.z : 0);
  partial +=
      ((int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * Traits::kBlockM * Traits::kBlockN;
  for (int index = threadIdx.x; index < Traits::kBlockM * Traits::kBlockN; index += Traits::kThreads)
    partial[index] = sums[index / Traits::kBlockN * Traits::kLdSums + index % Traits::kBlockN];
}

// Adds up the partial sums of the splits, in order, and finishes the tiles. It has no part in what Transposed and
// Scaled decide.
template <class T, int BlockM, int BlockN, int Threads, bool IsVector>
__global__ void __launch_bounds__(Threads)
    conv_gemm_finish_kernel(const ConvGemm p, const compute_t<T> *partial, int splits) {
  KERNELDNA_SHARED(shared);
  wait_for_previous_kernel();
  constexpr int kLd = BlockN + 4;
  TileRow *const rows = reinterpret_cast<TileRow *>(shared);
  auto *const sums = reinterpret_cast<compute_t<T> *>(rows + BlockM);
  const TilePlace place = tile_place<BlockM, BlockN>(p, p.transposed);
  fill_rows<BlockM, Threads>(p, place, rows);
  const int64_t tile = int64_t(blockIdx.y) * gridDim.x + blockIdx.x, tiles = int64_t(gridDim.y) * gridDim.x;
  for (int index = threadIdx.x; index < BlockM * BlockN; index += Threads) {
    compute_t<T> sum = 0;
#pragma unroll 4
    for (int split = 0; split < splits; ++split)
      sum += partial[(split * tiles + tile) * BlockM * BlockN + index];
    sums[index / BlockN * kLd + index % BlockN] = sum;
  }
  __syncthreads();
  finish_tile<T, BlockM, BlockN, Threads, IsVector>(p, place, rows, sums, kLd, 0);
}

} // namespace kerneldna::cuda
