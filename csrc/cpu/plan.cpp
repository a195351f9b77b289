#include "plan.h"

#include "tuning.h"

namespace kerneldna::cpu {
namespace {

enum class Algorithm { gemm_nchw, gemm_nhwc, depthwise };

bool has_sample_kernels(const ConvParams &conv) { return conv.kernels || conv.weight_sample; }

int64_t pixels_of(const ConvParams &conv) { return conv.batch * conv.lattice_height * conv.lattice_width; }

bool channels_last(const ConvParams &conv) {
  const int64_t sources = conv.groups * conv.in_channels, targets = conv.groups * conv.out_channels;
  // Where nothing else will do, a single channel is adjacent to itself.
  const auto adjacent = [&](const Image &image, int64_t channels) {
    return has_adjacent_channels(image) || (has_sample_kernels(conv) && (image.channel_stride == 1 || channels == 1));
  };
  return adjacent(conv.source, sources) && adjacent(conv.target, targets) &&
         (!conv.partner || adjacent(*conv.partner, targets));
}

// Packing the panels of gemm_nhwc saves transposing every pixel. With many filters transposing weighs less, but tap by
// tap the panels leave out what multiplies padding.
Algorithm choose_algorithm(const ConvParams &conv) {
  if (conv.groups > 1 && (conv.in_channels == 1 || conv.out_channels == 1))
    return Algorithm::depthwise;
  if (has_sample_kernels(conv))
    return channels_last(conv) ? Algorithm::gemm_nhwc : Algorithm::gemm_nchw;
  return channels_last(conv) && conv.in_channels >= kLeastNhwcChannels &&
                 pixels_of(conv) >= std::min(kEnoughPixels, kPixelsPerFilter * conv.out_channels)
             ? Algorithm::gemm_nhwc
             : Algorithm::gemm_nchw;
}

template <class T> bool has_finite_taps(const ConvParams &conv) {
  for (int64_t n = 0; n < (conv.tap_scale.batch_stride ? conv.batch : 1); ++n)
    for (int64_t t = 0; t < conv.tap_count; ++t) {
      const T value = static_cast<const T *>(conv.tap_scale.data)[n * conv.tap_scale.batch_stride + conv.taps[t].scale];
      if (value - value != 0)
        return false;
    }
  return true;
}

// Whether a map is large enough, with as many taps or filters as it takes. Where each sample has its own kernel, that
// is mixed into a copy of the weight, for one tap too, and for any number of filters.
bool is_large_map(const ConvParams &conv, Algorithm algorithm, ScalarType dtype) {
  const int64_t pixels = conv.lattice_height * conv.lattice_width;
  if (algorithm == Algorithm::gemm_nchw && has_sample_kernels(conv)) {
    const int64_t parents = std::max<int64_t>(conv.kernels, 1) * conv.out_channels * conv.in_channels * conv.tap_count;
    return pixels >= (parents <= kCachedParents ? kLeastMixedPixels : kLeastSharedPixels);
  }
  // In gemm_nhwc a tile that is cut within a vector would take in pixels of the next sample; in gemm_nchw nobody tried.
  return conv.tap_count > 1 && pixels >= kLeastSharedPixels && pixels % lanes_of(dtype) == 0 &&
         (algorithm == Algorithm::gemm_nhwc || conv.out_channels <= kMostSharedFilters);
}

// An infinite s in the weight would turn padding into NaN; that of one sample decides for all of them, whose last bits
// may change.
bool can_share_rows(const ConvParams &conv, Algorithm algorithm, ScalarType dtype) {
  if (!is_large_map(conv, algorithm, dtype))
    return false;
  if (algorithm == Algorithm::gemm_nchw) {
    // As shared_rows.h needs it: a dense source as wide as the lattice, and taps adjacent in the weight.
    const Image &source = conv.source;
    if (source.width != conv.lattice_width || source.height != conv.lattice_height || source.column_stride != 1 ||
        source.row_stride != source.width || conv.source_step[0] != 1 || conv.source_step[1] != 1 ||
        std::min(conv.weight_row, conv.weight_channel) != conv.tap_count)
      return false;
    for (int64_t t = 0; t < conv.tap_count; ++t)
      if (conv.taps[t].weight != t)
        return false;
  }
  return compute_dtype(dtype) == ScalarType::Double ? has_finite_taps<double>(conv) : has_finite_taps<float>(conv);
}

// Cuts the filters into parts, which evens out the threads; the columns of a tile are built once for every part.
void plan_split(ConvParams &conv, int64_t least_split) {
  const int64_t threads = torch::stable::get_num_threads();
  const double build = kBuildCost / double(conv.out_channels);
  double best = 0;
  for (int64_t split = least_split; split <= least_split * threads; split += least_split) {
    const int64_t units = conv.tiles * conv.groups * split;
    const double cost = double((units + threads - 1) / threads) * (1.0 / double(split) + build);
    if (split == least_split || cost < best) {
      best = cost;
      conv.out_split = split;
    }
  }
}

void run(const ConvParams &conv, void (*kernel)(const ConvParams &, int64_t, int64_t)) {
  torch::stable::parallel_for(0, conv.tiles * conv.groups * conv.out_split, 1,
                              [&](int64_t begin, int64_t end) { kernel(conv, begin, end); });
}

// [group][block of filters][channel][filter in block][tap], of a weight whose taps are adjacent, and then its filters.
template <class T> void pack_blocks(void *to, const ConvParams &conv) {
  T *packed = static_cast<T *>(to);
  const int64_t block = kernels().rows, blocks = (conv.out_channels + block - 1) / block, taps = conv.tap_count;
  torch::stable::parallel_for(0, conv.groups * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % blocks * block, width = std::min(block, conv.out_channels - first);
      const T *in = static_cast<const T *>(conv.weight) + unit / blocks * conv.weight_group + first * conv.weight_row;
      T *out = packed + unit * conv.in_channels * block * taps;
      for (int64_t i = 0; i < conv.in_channels; ++i, in += conv.weight_channel, out += block * taps)
        std::copy(in, in + width * taps, out);
    }
  });
}

// As gemm_nhwc.h says: [group][panel of filters][tap][channel][filter in panel].
void pack_panels(void *packed, int64_t width, const ConvParams &conv, ScalarType dtype) {
  const PackPanels pack{conv.groups,
                        conv.in_channels,
                        conv.out_channels,
                        conv.taps,
                        conv.tap_count,
                        conv.weight,
                        conv.weight_group,
                        conv.weight_row,
                        conv.weight_channel,
                        conv.folded_taps ? conv.tap_scale.data : nullptr,
                        packed,
                        width};
  const auto kernel = kernels().pack_panels[int(stored_of(dtype))];
  const int64_t panels = (conv.out_channels + width - 1) / width;
  torch::stable::parallel_for(0, conv.groups * panels, 1,
                              [&](int64_t begin, int64_t end) { kernel(pack, begin, end); });
}

// The weight, or each parent of a mixture, packed in so many elements.
template <class Pack> Tensor pack_each(const ConvParams &conv, int64_t size, ScalarType dtype, const Pack &pack) {
  const int64_t parents = conv.kernels ? conv.kernels : 1;
  Tensor packed = torch::stable::empty(std::array<int64_t, 1>{parents * size}, compute_dtype(dtype));
  const int64_t bytes = packed.element_size();
  ConvParams one = conv;
  for (int64_t k = 0; k < parents; ++k) {
    one.weight = static_cast<const char *>(conv.weight) + k * conv.weight_kernel * bytes;
    pack(static_cast<char *>(packed.data_ptr()) + k * size * bytes, one);
  }
  return packed;
}

// Where filters stand closer together than channels (a transposed weight), reading in place would touch a page for
// every channel: the weight is packed in blocks of filters.
void run_gemm_nchw(ConvParams conv, ScalarType dtype) {
  const int64_t rows = kernels().rows, taps = conv.tap_count;
  conv.weight_block = rows * conv.weight_row;
  Tensor packed;
  std::vector<Tap> packed_taps(conv.taps, conv.taps + taps);
  if (conv.weight_row < conv.weight_channel && conv.weight_channel > 1) {
    const int64_t blocks = (conv.out_channels + rows - 1) / rows;
    bool dense = conv.weight_row == taps;
    for (int64_t t = 0; t < taps; ++t)
      dense = dense && conv.taps[t].weight == t;
    const int64_t size = conv.groups * blocks * conv.in_channels * rows * taps;
    packed = pack_each(conv, size, dtype, [&](void *to, const ConvParams &one) {
      if (!dense)
        pack_panels(to, rows, one, dtype);
      else if (compute_dtype(dtype) == ScalarType::Double)
        pack_blocks<double>(to, one);
      else
        pack_blocks<float>(to, one);
    });
    for (int64_t t = 0; t < taps; ++t)
      packed_taps[t].weight = dense ? t : t * conv.in_channels * rows;
    conv.taps = packed_taps.data();
    conv.weight = packed.data_ptr();
    conv.weight_row = dense ? taps : 1;
    conv.weight_channel = dense ? rows * taps : rows;
    conv.weight_block = conv.in_channels * rows * taps;
    conv.weight_group = blocks * conv.weight_block;
    conv.weight_kernel = size;
  }
  const int64_t part = std::max<int64_t>(rows, kResultBytes / kTileBytes);
  plan_split(conv, (conv.out_channels + part - 1) / part);
  run(conv, kernels().gemm_nchw[int(stored_of(dtype))]);
}

void run_gemm_nhwc(ConvParams conv, ScalarType dtype) {
  // Panels of equal width, as few as can be; but a last one of a single vector is bound by the loads of the columns.
  const int64_t lanes = lanes_of(dtype), vectors = (conv.out_channels + lanes - 1) / lanes;
  const int64_t fewest = (vectors + kernels().panel_vectors - 1) / kernels().panel_vectors;
  int64_t panel_vectors = (vectors + fewest - 1) / fewest;
  if (panel_vectors == 3 && vectors % 6 == 4)
    panel_vectors = 2;
  const int64_t width = panel_vectors * lanes, panels = (conv.out_channels + width - 1) / width;
  conv.panel_width = width;
  Tensor packed;
  if (!has_sample_kernels(conv)) {
    packed = torch::stable::empty(
        std::array<int64_t, 1>{conv.groups * panels * conv.in_channels * conv.tap_count * width}, compute_dtype(dtype));
    conv.folded_taps = conv.share_rows && !conv.tap_scale.batch_stride;
    pack_panels(packed.data_ptr(), width, conv, dtype);
    conv.panels = packed.data_ptr();
  }
  plan_split(conv, 1);
  run(conv, kernels().gemm_nhwc[int(stored_of(dtype))]);
}

void run_depthwise(ConvParams conv, ScalarType dtype) {
  if (channels_last(conv) && conv.in_channels == 1 && conv.out_channels == 1) {
    // Few samples are cut into parts of their channels, for all threads to have work.
    const int64_t vectors = (conv.groups + lanes_of(dtype) - 1) / lanes_of(dtype);
    const int64_t threads = torch::stable::get_num_threads();
    conv.out_split = std::clamp<int64_t>((2 * threads + conv.batch - 1) / conv.batch, 1, vectors);
    torch::stable::parallel_for(0, conv.batch * conv.out_split, 1, [&](int64_t begin, int64_t end) {
      kernels().depthwise_nhwc[int(stored_of(dtype))](conv, begin, end);
    });
  } else {
    torch::stable::parallel_for(0, conv.batch * conv.groups, 1, [&](int64_t begin, int64_t end) {
      kernels().depthwise_nchw[int(stored_of(dtype))](conv, begin, end);
    });
  }
}

} // namespace

bool fits_layout(const ConvParams &conv, ScalarType dtype) {
  const bool in_place = conv.weight_row >= conv.weight_channel || conv.weight_channel == 1;
  return !has_sample_kernels(conv) || choose_algorithm(conv) != Algorithm::gemm_nchw ||
         (can_share_rows(conv, Algorithm::gemm_nchw, dtype) && (conv.kernels || in_place));
}

bool has_adjacent_channels(const Image &image) { return image.column_stride != 1 && image.channel_stride == 1; }

void plan_tiles(ConvParams &conv, ScalarType dtype) {
  const Algorithm algorithm = choose_algorithm(conv);
  if (algorithm == Algorithm::depthwise) {
    conv.tiles = 1;
    return;
  }
  conv.share_rows = can_share_rows(conv, algorithm, dtype);
  if (conv.share_rows) {
    const int64_t pixels = conv.lattice_height * conv.lattice_width;
    const int64_t most = conv.batch == 1 ? kSharedTilePixelsOfOneSample : kSharedTilePixels;
    const int64_t tiles = (pixels + most - 1) / most;
    conv.tiles = conv.batch * (tiles + tiles % 2);
    return;
  }
  if (has_sample_kernels(conv)) {
    const int64_t pixels = conv.lattice_height * conv.lattice_width;
    if (pixels <= kMixedTilePixels) {
      const int64_t most = kMixedTilePixels / pixels;
      conv.tiles = (conv.batch + most - 1) / most;
      conv.tile_samples = (conv.batch + conv.tiles - 1) / conv.tiles;
      conv.tiles = (conv.batch + conv.tile_samples - 1) / conv.tile_samples;
      return;
    }
  }
  const int64_t lanes = lanes_of(dtype), vectors = (pixels_of(conv) + lanes - 1) / lanes;
  const int64_t element = compute_dtype(dtype) == ScalarType::Double ? 8 : 4;
  const int64_t tile_vectors = std::max<int64_t>(1, kTileBytes / element / lanes);
  conv.tiles = std::max<int64_t>(1, (vectors + tile_vectors - 1) / tile_vectors);
  // Even counts share out among the usual numbers of threads.
  if (conv.tiles > 2)
    conv.tiles += conv.tiles % 2;
  if (conv.tiles > 8)
    conv.tiles += (4 - conv.tiles % 4) % 4;
}

void run_conv(ConvParams &conv, ScalarType dtype) {
  switch (choose_algorithm(conv)) {
  case Algorithm::gemm_nchw:
    return run_gemm_nchw(conv, dtype);
  case Algorithm::gemm_nhwc:
    return run_gemm_nhwc(conv, dtype);
  case Algorithm::depthwise:
    return run_depthwise(conv, dtype);
  }
}

} // namespace kerneldna::cpu
