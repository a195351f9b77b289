// Forward and input gradient of maps with adjacent channels (channels_last) that have many pixels for each filter: the
// operands of gemm_nchw.h change places. The pixels are the rows that are read one scalar at a time, their columns are
// built without transposing anything, and the filters, packed once a call, are the vectors, so that the result leaves
// as it is stored. Where each sample has a kernel of its own, nothing is packed beforehand: a chunk of it is packed
// just before it is multiplied with that sample's pixels, or mixed of the parents' packed chunks; a tile is of several
// samples, which these serve from the second-level cache.
#pragma once

#include "../tuning.h"
#include "conv_params.h"
#include "microkernel.h"
#include "mix_elements.h"
#include "scratch.h"
#include "taps.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// out[o] = scale * in[o * step]
template <class T>
KERNELDNA_INLINE void copy_filters(T *__restrict__ out, const T *in, int64_t step, int64_t count, T scale) {
  int64_t o = 0;
  if (step == 1 && count == kRows) // the panel of gemm_nchw, less than a vector perhaps
    for (; o < kRows; ++o)
      out[o] = in[o] * scale;
  else if (step == 1)
    for (; o + kLanes<T> <= count; o += kLanes<T>)
      store(out + o, load(in + o) * splat(scale));
  for (; o < count; ++o)
    out[o] = in[o * step] * scale;
}

// Panel p of a group holds filters [p * width, (p + 1) * width): out[(t * in_channels + i) * width + filter]. A unit of
// work is one panel. Some that follow one another are packed together.
template <class S, class T> void pack_panels(const PackPanels &pack, int64_t begin, int64_t end) {
  const int64_t width = pack.panel_width, panels = (pack.out_channels + width - 1) / width;
  struct Panel {
    const T *in;
    T *out;
    int64_t count;
  } together[kPanelsTogether];
  while (begin < end) {
    int64_t count = 0;
    for (; count < kPanelsTogether && begin < end; ++begin) {
      const int64_t first = begin % panels * width, left = pack.out_channels - first;
      together[count++] = {static_cast<const T *>(pack.weight) + begin / panels * pack.weight_group +
                               first * pack.weight_row,
                           static_cast<T *>(pack.panels) + begin * pack.in_channels * pack.tap_count * width,
                           left < width ? left : width};
    }
    for (int64_t t = 0; t < pack.tap_count; ++t) {
      const T scale = pack.tap_scale ? static_cast<const T *>(pack.tap_scale)[pack.taps[t].scale] : T(1);
      const int64_t in = pack.taps[t].weight, out = t * pack.in_channels * width;
      if (pack.weight_channel == 1) {
        for (int64_t p = 0; p < count; ++p) {
          const Panel &panel = together[p];
          transpose_to<T, T>(panel.out + out, width, panel.in + in, pack.weight_row, panel.count, pack.in_channels);
          if (pack.tap_scale)
            for (int64_t k = out; k < out + pack.in_channels * width; k += kLanes<T>)
              store(panel.out + k, load(panel.out + k) * splat(scale));
        }
        continue;
      }
      for (int64_t i = 0; i < pack.in_channels; ++i)
        for (int64_t p = 0; p < count; ++p)
          copy_filters(together[p].out + out + i * width, together[p].in + in + i * pack.weight_channel,
                       pack.weight_row, together[p].count, scale);
    }
  }
}

template <class S, class T> class GemmNhwc {
public:
  explicit GemmNhwc(const ConvParams &conv)
      : conv_(conv), width_(conv.panel_width), of_samples_(conv.kernels || conv.weight_sample) {
    pixels_ = conv.batch * conv.lattice_height * conv.lattice_width;
    tile_pixels_ = conv.tile_samples ? conv.tile_samples * conv.lattice_height * conv.lattice_width
                                     : ((pixels_ + lanes - 1) / lanes + conv.tiles - 1) / conv.tiles * lanes;
    panels_ = (conv.out_channels + width_ - 1) / width_;
    panels_per_part_ = (panels_ + conv.out_split - 1) / conv.out_split;
    const int64_t chunk = of_samples_ ? kMixedChunk : kChunk;
    const int64_t chunks = (conv.in_channels + chunk - 1) / chunk;
    channels_ = (conv.in_channels + chunks - 1) / chunks;
    taps_ = channels_ >= kChannelsOfTap ? 1 : chunk / channels_;
    taps_ = taps_ < conv.tap_count ? taps_ : conv.tap_count;
    if (of_samples_) { // some channels with all their taps: so a kernel stands in memory
      channels_ = chunk / (conv.tap_count > 0 ? conv.tap_count : 1) / lanes * lanes;
      channels_ = channels_ < lanes ? lanes : channels_;
      channels_ = channels_ < conv.in_channels ? channels_ : conv.in_channels;
      taps_ = conv.tap_count;
    }
    tap_by_tap_ = taps_ == 1 && conv.tap_count > 1;
    row_ = taps_ * channels_;
    const bool at_once = taps_ == conv.tap_count && channels_ == conv.in_channels; // no sums wait for another chunk
    result_row_ = panels_per_part_ * width_;
    const int64_t columns = conv.share_rows ? band_size() : tile_pixels_ * row_;
    const int64_t slack = of_samples_ ? lanes * width_ : 0; // whole squares are transposed
    parent_size_ = row_ * width_ + slack;
    const int64_t scaled = of_samples_ || (conv.share_rows && !conv.folded_taps) ? parent_size_ : 0;
    thread_scratch().lay_out([&](ScratchParts &parts) {
      parts(columns_, columns + lanes);
      parts(scaled_, scaled);
      parts(parents_, conv.kernels * parent_size_);
      parts(result_, at_once ? 0 : tile_pixels_ * result_row_);
      parts(a_offset_, row_);
      parts(b_offset_, row_);
      parts(tile_, tile_pixels_);
      parts(blocks_, tile_pixels_);
    });
    for (int64_t k = 0; k < row_; ++k) {
      a_offset_[k] = k;
      b_offset_[k] = k * width_;
    }
  }

  // Units are ordered part, tile, group.
  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t part = unit / (conv_.tiles * conv_.groups), rest = unit % (conv_.tiles * conv_.groups);
      run_tile(rest / conv_.groups, rest % conv_.groups, part);
    }
  }

private:
  static constexpr int64_t lanes = kLanes<T>;

  struct Pixel {
    int64_t sample, source_row, source_column; // where tap offsets start from
    int64_t target, partner;                   // of channel 0
  };

  // Pixels of one row that are multiplied together, and the taps that reach a source row from there: the others would
  // multiply zeros, which on a small map are a tenth of the work. Tap by tap, pixels from which the tap reaches no
  // source column are left out too, another tenth.
  struct Block {
    int64_t first, count, tap_begin, tap_end;
  };

  void run_tile(int64_t tile, int64_t group, int64_t part) {
    const auto [first, after] = tile_range(conv_, tile, lanes);
    count_ = after - first;
    const int64_t panel_begin = part * panels_per_part_;
    const int64_t panel_end = panel_begin + panels_per_part_ < panels_ ? panel_begin + panels_per_part_ : panels_;
    if (count_ <= 0 || panel_begin >= panel_end)
      return;
    tile_index_ = tile;
    locate_pixels(first);
    if (tap_by_tap_)
      clear_result();
    else
      cut_into_blocks(0, conv_.tap_count, false);
    if (conv_.partner)
      clear_partial(group, panel_begin, panel_end);
    if (conv_.share_rows)
      build_band(group);
    bool fresh = !tap_by_tap_;
    for (int64_t tap = 0; tap < conv_.tap_count; tap += taps_)
      for (int64_t channel = 0; channel < conv_.in_channels; channel += channels_) {
        const int64_t tap_end = tap + taps_ < conv_.tap_count ? tap + taps_ : conv_.tap_count;
        const int64_t channel_end = channel + channels_ < conv_.in_channels ? channel + channels_ : conv_.in_channels;
        const bool done = !tap_by_tap_ && tap_end == conv_.tap_count && channel_end == conv_.in_channels;
        if (tap_by_tap_)
          cut_into_blocks(tap, tap_end, true);
        if (conv_.share_rows)
          point_into_band(tap, tap_end, channel, channel_end);
        else
          build_columns(group, tap, tap_end, channel, channel_end);
        for (int64_t panel = panel_begin; panel < panel_end; ++panel)
          multiply_panel(group, panel, panel - panel_begin, tap, tap_end, channel, channel_end, fresh, done);
        fresh = false;
      }
    if (tap_by_tap_ || conv_.tap_count == 0) { // what is left is to finish
      cut_into_blocks(0, 0, false);
      for (int64_t panel = panel_begin; panel < panel_end; ++panel)
        multiply_panel(group, panel, panel - panel_begin, 0, 0, 0, 0, fresh, true);
    }
  }

  void locate_pixels(int64_t first) {
    const int64_t in_map = conv_.lattice_height * conv_.lattice_width;
    for (int64_t p = 0; p < count_; ++p) {
      const int64_t sample = (first + p) / in_map, rest = (first + p) % in_map;
      const int64_t row = rest / conv_.lattice_width, column = rest % conv_.lattice_width;
      const int64_t target_row = conv_.target_origin[0] + row * conv_.target_step[0];
      const int64_t target_column = conv_.target_origin[1] + column * conv_.target_step[1];
      auto offset = [&](const Image &image) {
        return sample * image.batch_stride + target_row * image.row_stride + target_column * image.column_stride;
      };
      tile_[p] = {sample, row * conv_.source_step[0], column * conv_.source_step[1], offset(conv_.target),
                  conv_.partner ? offset(*conv_.partner) : 0};
    }
  }

  // For taps [tap_begin, tap_end). `reached`: for one tap, and only the pixels from which it reaches the source.
  void cut_into_blocks(int64_t tap_begin, int64_t tap_end, bool reached) {
    block_count_ = 0;
    for (int64_t p = 0, next; p < count_; p = next) {
      next = p + 1; // where the row of pixel p ends in the tile
      while (next < count_ && tile_[next].source_row == tile_[p].source_row && tile_[next].sample == tile_[p].sample)
        ++next;
      int64_t first_tap = tap_begin, last_tap = tap_end, first = p, last = next;
      auto row_outside = [&](int64_t t) {
        return outside(tile_[p].source_row + conv_.taps[t].row, conv_.source.height);
      };
      while (first_tap < last_tap && row_outside(first_tap))
        ++first_tap;
      while (first_tap < last_tap && row_outside(last_tap - 1))
        --last_tap;
      if (reached) {
        if (first_tap == last_tap)
          continue;
        auto column_outside = [&](int64_t q) {
          return outside(tile_[q].source_column + conv_.taps[tap_begin].column, conv_.source.width);
        };
        while (first < last && column_outside(first))
          ++first;
        while (first < last && column_outside(last - 1))
          --last;
      }
      for (int64_t blocks = (last - first + kRows - 1) / kRows; blocks > 0; --blocks) {
        const int64_t count = (last - first + blocks - 1) / blocks;
        blocks_[block_count_++] = {first, count, first_tap, last_tap};
        first += count;
      }
    }
  }

  static bool outside(int64_t place, int64_t size) { return place < 0 || place >= size; }

  // columns[pixel][(t, i)] = in_scale[n,i] * tap_scale[n,t] * source[n,i,q(pixel,t)]
  void build_columns(int64_t group, int64_t tap_begin, int64_t tap_end, int64_t channel_begin, int64_t channel_end) {
    const Image &source = conv_.source;
    const int64_t count = channel_end - channel_begin, channel = group * conv_.in_channels + channel_begin;
    for (int64_t p = 0; p < count_; ++p) {
      const Pixel &pixel = tile_[p];
      const T *in_scale =
          static_cast<const T *>(conv_.in_scale.data) + pixel.sample * conv_.in_scale.batch_stride + channel;
      const T *tap_scale = static_cast<const T *>(conv_.tap_scale.data) + pixel.sample * conv_.tap_scale.batch_stride;
      const S *sample = static_cast<const S *>(source.data) + pixel.sample * source.batch_stride + channel;
      T *out = columns_ + p * row_;
      for (int64_t t = tap_begin; t < tap_end; ++t, out += count) {
        const int64_t row = pixel.source_row + conv_.taps[t].row;
        const int64_t column = pixel.source_column + conv_.taps[t].column;
        if (outside(row, source.height))
          continue; // no block reads these
        if (outside(column, source.width)) {
          for (int64_t i = 0; i < count; i += lanes) // the next row of columns, or slack, takes what is too much
            store(out + i, Vec<T>{});
          continue;
        }
        const S *in = sample + row * source.row_stride + column * source.column_stride;
        const Vec<T> scale = splat(tap_scale[conv_.taps[t].scale]);
        int64_t i = 0;
        for (; i + lanes <= count; i += lanes)
          store(out + i, load(in + i) * (scale * load(in_scale + i)));
        if (i < count)
          store(out + i, load_first(in + i, count - i) * (scale * load_first(in_scale + i, count - i)));
      }
    }
  }

  // Sets the extent of the taps, and returns the size of the band of a tile.
  int64_t band_size() {
    extent_ = extent_of(conv_.taps, conv_.tap_count);
    band_width_ = (conv_.lattice_width - 1) * conv_.source_step[1] + extent_.columns();
    const int64_t most = (tile_pixels_ + conv_.lattice_width - 2) / conv_.lattice_width + 1;
    const int64_t rows = most < conv_.lattice_height ? most : conv_.lattice_height;
    return ((rows - 1) * conv_.source_step[0] + extent_.rows()) * band_width_ * conv_.in_channels;
  }

  // band[row][column][i] = in_scale[n,i] * source[n,i], from the first row to the last that the tile's taps reach.
  void build_band(int64_t group) {
    const Image &source = conv_.source;
    const Pixel &begin = tile_[0], &end = tile_[count_ - 1];
    const int64_t count = conv_.in_channels, channel = group * count;
    const T *in_scale =
        static_cast<const T *>(conv_.in_scale.data) + begin.sample * conv_.in_scale.batch_stride + channel;
    const S *sample = static_cast<const S *>(source.data) + begin.sample * source.batch_stride + channel;
    T *out = columns_;
    for (int64_t row = begin.source_row + extent_.first_row; row < end.source_row + extent_.last_row + 1; ++row)
      for (int64_t column = extent_.first_column; column < extent_.first_column + band_width_; ++column, out += count) {
        const bool outside = row < 0 || row >= source.height || column < 0 || column >= source.width;
        const S *in = sample + row * source.row_stride + column * source.column_stride;
        for (int64_t i = 0; i < count; i += lanes) { // the next pixel, or slack, takes what is too much
          const int64_t width = count - i < lanes ? count - i : lanes;
          store(out + i, outside ? Vec<T>{} : load_first(in + i, width) * load_first(in_scale + i, width));
        }
      }
  }

  void point_into_band(int64_t tap_begin, int64_t tap_end, int64_t channel_begin, int64_t channel_end) {
    int64_t *offset = a_offset_;
    for (int64_t t = tap_begin; t < tap_end; ++t) {
      const int64_t row = conv_.taps[t].row - extent_.first_row, column = conv_.taps[t].column - extent_.first_column;
      for (int64_t i = channel_begin; i < channel_end; ++i)
        *offset++ = (row * band_width_ + column) * conv_.in_channels + i;
    }
  }

  // Where a chunk of a panel stands.
  const T *panel_of(int64_t group, int64_t panel, int64_t tap, int64_t channel) const {
    return static_cast<const T *>(conv_.panels) +
           (((group * panels_ + panel) * conv_.tap_count + tap) * conv_.in_channels + channel) * width_;
  }

  // A chunk of a panel, of the kernel of a sample; of a mixture the parents' chunks are packed already.
  const T *panel_of_sample(int64_t sample, int64_t group, int64_t panel, int64_t channel_begin, int64_t channels) {
    if (conv_.kernels)
      mix_elements(scaled_, parents_, parent_size_,
                   static_cast<const T *>(conv_.mix.data) + sample * conv_.mix.batch_stride, conv_.kernels,
                   conv_.tap_count * channels * width_);
    else
      pack_chunk(scaled_, sample * conv_.weight_sample, group, panel, channel_begin, channels);
    if (conv_.share_rows)
      scale_panel(scaled_, 0, conv_.tap_count, channels);
    return scaled_;
  }

  // A chunk of a panel of the weight that begins at an offset, in the order in which that is read fastest; the offsets
  // of B follow.
  void pack_chunk(T *out, int64_t offset, int64_t group, int64_t panel, int64_t channel_begin, int64_t channels) {
    const int64_t first = panel * width_, taps = conv_.tap_count;
    const int64_t filters = conv_.out_channels - first < width_ ? conv_.out_channels - first : width_;
    const T *in = static_cast<const T *>(conv_.weight) + offset + group * conv_.weight_group +
                  first * conv_.weight_row + channel_begin * conv_.weight_channel;
    if (conv_.weight_channel == 1) {
      for (int64_t t = 0; t < taps; ++t)
        transpose_to<T, T>(out + t * channels * width_, width_, in + conv_.taps[t].weight, conv_.weight_row, filters,
                           channels);
      set_offsets(channels, channels, 1);
      return;
    }
    bool adjacent = true;
    for (int64_t t = 0; t < taps; ++t)
      adjacent = adjacent && conv_.taps[t].weight == t;
    if (adjacent && conv_.weight_channel == taps)
      transpose_to<T, T>(out, width_, in, conv_.weight_row, filters, channels * taps);
    else
      for (int64_t i = 0; i < channels; ++i) {
        const T *channel = in + i * conv_.weight_channel;
        if (adjacent)
          transpose_to<T, T>(out + i * taps * width_, width_, channel, conv_.weight_row, filters, taps);
        else
          for (int64_t t = 0; t < taps; ++t)
            copy_filters(out + (i * taps + t) * width_, channel + conv_.taps[t].weight, conv_.weight_row, filters,
                         T(1));
      }
    set_offsets(channels, 1, taps);
  }

  void set_offsets(int64_t channels, int64_t tap_step, int64_t channel_step) {
    if (channels == offsets_for_)
      return;
    offsets_for_ = channels;
    for (int64_t t = 0; t < conv_.tap_count; ++t)
      for (int64_t i = 0; i < channels; ++i)
        b_offset_[t * channels + i] = (t * tap_step + i * channel_step) * width_;
  }

  // A chunk of a panel times s of the tile's sample.
  const T *scale_panel(const T *panel, int64_t tap_begin, int64_t tap_end, int64_t channels) {
    const T *tap_scale = static_cast<const T *>(conv_.tap_scale.data) + tile_[0].sample * conv_.tap_scale.batch_stride;
    const int64_t *row = b_offset_;
    for (int64_t t = tap_begin; t < tap_end; ++t) {
      const Vec<T> scale = splat(tap_scale[conv_.taps[t].scale]);
      for (int64_t i = 0; i < channels; ++i, ++row)
        for (int64_t f = 0; f < width_; f += lanes)
          store(scaled_ + *row + f, load(panel + *row + f) * scale);
    }
    return scaled_;
  }

  void multiply_panel(int64_t group, int64_t panel, int64_t place, int64_t tap_begin, int64_t tap_end,
                      int64_t channel_begin, int64_t channel_end, bool fresh, bool done) {
    const int64_t first = panel * width_, channels = channel_end - channel_begin;
    const int64_t filters = conv_.out_channels - first < width_ ? conv_.out_channels - first : width_;
    const int vectors = int((filters + lanes - 1) / lanes);
    const T *weight = of_samples_ ? nullptr : panel_of(group, panel, tap_begin, channel_begin);
    if (!of_samples_ && conv_.share_rows && !conv_.folded_taps)
      weight = scale_panel(weight, tap_begin, tap_end, channels);
    for (int64_t k = 0; channels > 0 && k < conv_.kernels; ++k)
      pack_chunk(parents_ + k * parent_size_, k * conv_.weight_kernel, group, panel, channel_begin, channels);
    int64_t sample = -1;
    for (int64_t k = 0; k < block_count_; ++k) {
      const Block &block = blocks_[k];
      if (of_samples_ && tile_[block.first].sample != sample && channels > 0) {
        sample = tile_[block.first].sample;
        weight = panel_of_sample(sample, group, panel, channel_begin, channels);
      }
      const int64_t begin = block.tap_begin > tap_begin ? block.tap_begin : tap_begin;
      const int64_t end = block.tap_end < tap_end ? block.tap_end : tap_end;
      const int64_t skipped = (begin - tap_begin) * channels;
      const T *a = columns_ + block.first * row_;
      int64_t a_row = row_;
      if (conv_.share_rows) {
        const Pixel &pixel = tile_[block.first];
        a = columns_ +
            ((pixel.source_row - tile_[0].source_row) * band_width_ + pixel.source_column) * conv_.in_channels;
        a_row = conv_.source_step[1] * conv_.in_channels;
      }
      T *result = result_ + block.first * result_row_ + place * width_;
      const int64_t count = (end - begin) * channels;
      with_block_size(int(block.count), vectors, [&]<int MR, int NV>() {
        if (done)
          multiply_and_finish<MR, NV>(a, a_row, a_offset_ + skipped, weight, b_offset_ + skipped, count,
                                      fresh ? nullptr : result, tile_[block.first], group * conv_.out_channels + first,
                                      filters);
        else
          multiply_block<MR, NV, T>(a, a_row, a_offset_ + skipped, weight, b_offset_ + skipped, count, result,
                                    result_row_, fresh);
      });
    }
  }

  void clear_result() {
    for (int64_t k = 0; k < count_ * result_row_; k += lanes)
      store(result_ + k, Vec<T>{});
  }

  // The last product of a block, on top of `result` if there is one; it goes from the registers to the target. The
  // pixels of a block follow one another in a row.
  template <int MR, int NV>
  __attribute__((noinline)) void multiply_and_finish(const T *a, int64_t a_row, const int64_t *a_offset, const T *b,
                                                     const int64_t *b_offset, int64_t count, const T *result,
                                                     const Pixel &pixel, int64_t channel, int64_t filters) {
    Vec<T> sums[MR][NV];
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v)
        sums[m][v] = result ? load(result + m * result_row_ + v * lanes) : Vec<T>{};
    multiply<MR, NV>(sums, a, a_row, a_offset, b, b_offset, count);
    const T *out_scale =
        static_cast<const T *>(conv_.out_scale.data) + pixel.sample * conv_.out_scale.batch_stride + channel;
    const T *bias = conv_.bias.data
                        ? static_cast<const T *>(conv_.bias.data) + pixel.sample * conv_.bias.batch_stride + channel
                        : nullptr;
    S *out = static_cast<S *>(conv_.target.data) + pixel.target + channel;
    const int64_t out_row = conv_.target_step[1] * conv_.target.column_stride;
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const int64_t left = filters - v * lanes, width = left < lanes ? left : lanes;
      const Vec<T> scale = load_first(out_scale + v * lanes, width);
      const Vec<T> shift = bias ? load_first(bias + v * lanes, width) : Vec<T>{};
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m)
        store_first(out + m * out_row + v * lanes, sums[m][v] * scale + shift, width);
    }
    if (!conv_.partner)
      return;
    const S *partner = static_cast<const S *>(conv_.partner->data) + pixel.partner + channel;
    const int64_t partner_row = conv_.target_step[1] * conv_.partner->column_stride;
    T *products = partial(pixel.sample) + channel;
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const int64_t left = filters - v * lanes, width = left < lanes ? left : lanes;
      Vec<T> product{};
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m)
        product += sums[m][v] * load_first(partner + m * partner_row + v * lanes, width);
      store_first(products + v * lanes, load_first(products + v * lanes, width) + product, width);
    }
  }

  T *partial(int64_t sample) const {
    return static_cast<T *>(conv_.partial) + (tile_index_ + sample) * conv_.groups * conv_.out_channels;
  }

  void clear_partial(int64_t group, int64_t panel_begin, int64_t panel_end) {
    const int64_t end = panel_end * width_ < conv_.out_channels ? panel_end * width_ : conv_.out_channels;
    for (int64_t n = tile_[0].sample; n <= tile_[count_ - 1].sample; ++n)
      for (int64_t o = panel_begin * width_; o < end; ++o)
        partial(n)[group * conv_.out_channels + o] = 0;
  }

  const ConvParams &conv_;
  const int64_t width_;
  const bool of_samples_;    // each sample has a kernel of its own, given or mixed
  int64_t offsets_for_ = -1; // channels of the chunk that b_offset_ is made for, where that is so
  int64_t parent_size_ = 0;
  T *parents_ = nullptr;
  int64_t pixels_, tile_pixels_, panels_, panels_per_part_, channels_, taps_, row_, result_row_;
  bool tap_by_tap_; // a chunk is of one tap
  TapExtent extent_;
  int64_t band_width_ = 0;
  T *columns_ = nullptr, *scaled_ = nullptr, *result_ = nullptr;
  int64_t *a_offset_ = nullptr, *b_offset_ = nullptr;
  Pixel *tile_ = nullptr;
  Block *blocks_ = nullptr;
  int64_t block_count_ = 0, count_ = 0, tile_index_ = 0;
};

template <class S, class T> void gemm_nhwc(const ConvParams &conv, int64_t begin, int64_t end) {
  GemmNhwc<S, T>(conv).run(begin, end);
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
