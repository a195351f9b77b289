#include "attention_sums.h"

#include "lattice.h"

namespace kerneldna::cuda {
namespace {

constexpr int kThreads = 128;

template <class T> __device__ float factor(const Scale &scale, int64_t sample, int at) {
  return scale.data ? to_compute(static_cast<const T *>(scale.data)[sample * scale.sample_stride + at]) : 1.0f;
}

// e[sample, tap, channel], over the tiles of all classes of pixels.

__device__ float sum_of_tiles(const AttentionSums &p, int64_t sample, int tap, int taps, int channel, int channels) {
  const Geometry &g = p.geometry;
  float total = 0;
  for (int row = 0; row < lattice_classes(g, p.transposed, 0); ++row)
    for (int column = 0; column < lattice_classes(g, p.transposed, 1); ++column) {
      const int64_t pixels = lattice_pixels(g, p.transposed, row, column);
      const int64_t first_slot = lattice_first_slot(g, p.transposed, p.sum_rows, row, column);
      const int64_t last = ((sample + 1) * pixels - 1) / p.sum_rows;
      for (int64_t tile = sample * pixels / p.sum_rows; tile <= last; ++tile)
        total += p.pixel_sums[((first_slot + tile + sample) * taps + tap) * channels + channel];
    }
  return total;
}

// A thread has a channel of a sample.
template <class T>
__global__ void __launch_bounds__(kThreads, 4) channels_kernel(const AttentionSums p, int taps, int channels) {
  const int channel = blockIdx.x % unsigned(ceil_divide(channels, kThreads)) * kThreads + threadIdx.x;
  const int64_t sample = blockIdx.x / unsigned(ceil_divide(channels, kThreads));
  if (channel >= channels)
    return;
  float total = 0;
  for (int tap = 0; tap < taps; ++tap)
    total += factor<T>(p.tap_scale, sample, tap) * sum_of_tiles(p, sample, tap, taps, channel, channels);
  static_cast<T *>(p.by_channel)[sample * channels + channel] = from_compute<T>(total);
}

// A block has a tap of a sample.
template <class T>
__global__ void __launch_bounds__(kThreads, 4) taps_kernel(const AttentionSums p, int taps, int channels) {
  KERNELDNA_SHARED(shared);
  auto *const of_threads = reinterpret_cast<float *>(shared);
  const int tap = blockIdx.x % unsigned(taps);
  const int64_t sample = blockIdx.x / unsigned(taps);
  float total = 0;
  for (int channel = threadIdx.x; channel < channels; channel += kThreads)
    total += factor<T>(p.filter_scale, sample, channel) * sum_of_tiles(p, sample, tap, taps, channel, channels);
  of_threads[threadIdx.x] = total;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half)
      of_threads[threadIdx.x] += of_threads[threadIdx.x + half];
  }
  if (threadIdx.x == 0)
    static_cast<T *>(p.by_tap_sums)[sample * taps + tap] = from_compute<T>(of_threads[0]);
}

template <class T> void run(const AttentionSums &call, Stream stream) {
  const Geometry &g = call.geometry;
  const int taps = call.by_tap ? g.kernel_height * g.kernel_width : 1;
  const int channels = call.transposed ? g.in_channels : g.out_channels;
  Launch where{"attention_sums"};
  where.block = dim3(kThreads);
  where.stream = stream;
  if (call.by_channel) {
    where.grid = {ceil_divide(channels, kThreads) * g.batch};
    launch(channels_kernel<T>, where, call, taps, channels);
  }
  if (call.by_tap_sums) {
    where.grid = {taps * g.batch};
    where.shared_bytes = kThreads * sizeof(float);
    launch(taps_kernel<T>, where, call, taps, channels);
  }
}

} // namespace

void attention_sums(const AttentionSums &call, Stored stored, Stream stream) {
  with_type_of(stored, [&](auto zero) { run<decltype(zero)>(call, stream); });
}

} // namespace kerneldna::cuda
