#include "geometry.h"
#include "squeeze_excite.cuh"

#include <algorithm>

namespace kerneldna::cuda {
namespace squeeze {
namespace {

// Maps of one row or column, and rows that follow each other, become one row.
Map map_of(const SqueezeExcite &se, int size) {
  Map map{se.input,         se.sample_stride,     se.channel_stride, se.row_stride,
          se.column_stride, se.height * se.width, se.width,          Walk::channels};
  if (map.width == 1)
    map.column_stride = map.row_stride;
  if (se.height == 1 || se.width == 1 || se.row_stride == se.width * se.column_stride)
    map.width = map.pixels;
  if (map.channel_stride == 1 && se.channels > 1) {
    if (is_aligned(se.input, {se.channels, map.sample_stride, map.row_stride, map.column_stride}, size))
      map.walk = Walk::vectors;
  } else if (map.column_stride == 1 && map.width == map.pixels) {
    map.walk = Walk::pixels;
  }
  return map;
}

Layers layers_of(const SqueezeExcite &se, int size) {
  return {se.fc1_weight,
          se.fc1_bias,
          se.fc2_weight,
          se.fc2_bias,
          se.channels,
          se.hidden,
          is_aligned(se.fc1_weight, {se.channels}, size),
          is_aligned(se.fc2_weight, {se.hidden}, size)};
}

// So many that each has its loads under way once.
int threads_for(int64_t loads, int most) {
  int threads = 128;
  while (threads < most && threads * kLoads < loads)
    threads *= 2;
  return threads;
}

int64_t slabs_of(int channels) { return ceil_divide(channels, kSlab); }

template <class T> void in_one_launch(const Map &map, const Layers &layers, const SqueezeExcite &se, Stream stream) {
  const int count = map.walk == Walk::vectors ? Vector<T>::kCount : 1;
  const int64_t of_input = int64_t(map.pixels) * se.channels / (map.walk == Walk::channels ? 1 : Vector<T>::kCount);
  const int64_t of_weight = int64_t(se.hidden) * se.channels / (layers.fc1_vectors ? Vector<T>::kCount : 1);
  const int threads = threads_for(std::max(of_input, of_weight), kMostThreads);
  const size_t bytes = sample_shared_bytes(se.channels, se.hidden, threads, count);
  const Launch where{"squeeze_excite_kernel", {se.batch}, dim3(threads), bytes, stream};
  launch(squeeze_excite_kernel<T>, where, map, layers, se.gate);
}

template <class T, int Samples>
void in_two_launches(const Map &map, const Layers &layers, const SqueezeExcite &se, const Limits &limits,
                     Stream stream) {
  const int64_t groups = ceil_divide(se.batch, Samples);
  {
    const int count = map.walk == Walk::vectors ? Vector<T>::kCount : 1;
    const int slab = std::min(kSlab, se.channels), parts = int(se.shares / slabs_of(se.channels));
    const int64_t of_input = int64_t(map.pixels) / parts * slab / (map.walk == Walk::channels ? 1 : Vector<T>::kCount);
    const int64_t of_weight = int64_t(se.hidden) * slab / (layers.fc1_vectors ? Vector<T>::kCount : 1);
    const int threads = threads_for(std::max(of_input, of_weight), kSqueezeThreads);
    const Launch where{"squeeze_kernel",
                       {groups * se.shares},
                       dim3(threads),
                       squeeze_shared_bytes(Samples, threads, count, slab),
                       stream};
    launch(squeeze_kernel<T, Samples>, where, map, layers, se.batch, parts, se.products);
  }
  const int64_t row = int64_t(se.shares) * se.hidden;
  const bool vectors = is_aligned(se.products, {se.hidden}, sizeof(float));
  const Map products{se.products, row,       1,         row,
                     se.hidden,   se.shares, se.shares, vectors ? Walk::vectors : Walk::channels};
  const int64_t slabs =
      std::clamp(limits.multiprocessors / groups, ceil_divide(se.channels, kMostInShared), slabs_of(se.channels));
  const int slab = int(ceil_divide(se.channels, slabs));
  const int64_t of_weight = int64_t(se.hidden) * slab / (layers.fc2_vectors ? Vector<T>::kCount : 1);
  const int threads = threads_for(std::max(of_weight, row / (vectors ? Vector<float>::kCount : 1)), kMostThreads);
  Launch where{"excite_kernel",
               {groups * ceil_divide(se.channels, slab)},
               dim3(threads),
               excite_shared_bytes(Samples, se.hidden, slab, threads, vectors ? Vector<float>::kCount : 1),
               stream};
  where.overlaps_previous = true;
  launch(excite_kernel<T, Samples>, where, products, layers, se.batch, slab, se.gate);
}

template <class T> void run(const SqueezeExcite &se, Stream stream) {
  const Map map = map_of(se, sizeof(T));
  const Layers layers = layers_of(se, sizeof(T));
  const Limits &limits = limits_of(stream.device);
  if (!se.shares)
    in_one_launch<T>(map, layers, se, stream);
  else if (se.hidden <= kMostInShared && se.shares * se.batch / kSharing >= limits.multiprocessors)
    in_two_launches<T, kSharing>(map, layers, se, limits, stream);
  else
    in_two_launches<T, 1>(map, layers, se, limits, stream);
}

} // namespace
} // namespace squeeze

int shares_of_sample(const SqueezeExcite &se, Stored stored, const Limits &limits) {
  using namespace squeeze;
  const int64_t size = size_of(stored), pixels = int64_t(se.height) * se.width;
  const int64_t weights = 2 * int64_t(se.channels) * se.hidden * size;
  const int64_t sample = se.channels * pixels * size;
  if (sample + weights <= kOneLaunchBytes &&
      sample_shared_bytes(se.channels, se.hidden, kMostThreads, 16 / size) <= limits.shared_bytes)
    return 0;
  const int64_t slabs = slabs_of(se.channels);
  const int64_t wanted = ceil_divide(kBlocks * limits.multiprocessors, se.batch * slabs);
  const int64_t full = pixels * std::min(kSlab, se.channels) * size / kPartBytes;
  const int64_t parts = std::max<int64_t>(1, std::min(wanted, full));
  return int(slabs * ceil_divide(pixels, ceil_divide(pixels, parts))); // none is empty
}

void squeeze_excite(const SqueezeExcite &se, Stored stored, Stream stream) {
  with_type_of(stored, [&](auto zero) { squeeze::run<decltype(zero)>(se, stream); });
}

} // namespace kerneldna::cuda
