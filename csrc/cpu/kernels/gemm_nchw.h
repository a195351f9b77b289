// Forward and input gradient as a product: weight times the im2col matrix of a tile of pixels, vectors of pixels at a
// time, as NCHW stores them. It takes channels_last maps too, where gemm_nhwc.h has too few pixels for each filter.
//
// One unit of work is a tile of pixels by a part of the filters of a group. The columns of a tile are built a few
// channels at a time, so that they stay in the second-level cache, and multiplied with the shared weight; f, bias and
// the change of layout happen when the result leaves.
#pragma once

#include "../tuning.h"
#include "im2col.h"
#include "microkernel.h"
#include "scratch.h"
#include "shared_rows.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// A multiple of kRows and of every vector length, so that a strip of filters can be transposed as a whole.
constexpr int kStripRows = kRows == 8 ? 16 : 48;

template <class S, class T> class GemmNchw {
public:
  explicit GemmNchw(const ConvParams &conv)
      : conv_(conv), channels_per_chunk_(chunk_channels(conv)), shared_(conv, channels_per_chunk_ * conv.tap_count) {
    const int64_t pixels = conv.lattice_height * conv.lattice_width * (conv.share_rows ? 1 : conv.batch);
    const int64_t tiles = conv.share_rows ? conv.tiles / conv.batch : conv.tiles;
    const int64_t tile_vectors = ((pixels + kLanes<T> - 1) / kLanes<T> + tiles - 1) / tiles;
    const int64_t built_vectors = tile_vectors + (shared_.halo() + kLanes<T> - 1) / kLanes<T>;
    columns_row_ = (built_vectors + 1) * kLanes<T>; // one vector of slack: builders store whole vectors
    result_row_ = tile_vectors * kLanes<T>;
    rows_per_part_ = ((conv.out_channels + conv.out_split - 1) / conv.out_split + kRows - 1) / kRows * kRows;
    one_chunk_ = channels_per_chunk_ == conv.in_channels;
    const int64_t chunk = channels_per_chunk_ * conv.tap_count;
    const int64_t result_rows = one_chunk_ ? kStripRows : (rows_per_part_ + kStripRows - 1) / kStripRows * kStripRows;
    thread_scratch().lay_out([&](ScratchParts &parts) {
      parts(columns_, chunk * columns_row_ + kLanes<T>);
      parts(result_, result_rows * result_row_);
      parts(a_offset_, chunk);
      parts(b_offset_, chunk);
      parts(tile_.segments, result_row_);
      parts(runs_, result_row_);
      parts(tile_.pieces, columns_row_ * conv.tap_count);
      parts(tile_.tap_begin, conv.tap_count + 1);
      parts(tile_.inside, result_row_ / 64 + 2);
      if (conv.share_rows)
        shared_.lay_out(parts, kStripRows, chunk);
    });
    if (conv.share_rows)
      shared_.start();
    for (int64_t k = 0; k < chunk; ++k)
      b_offset_[k] = k * columns_row_;
    from_channels_ = conv.source.column_stride != 1 && conv.source.channel_stride == 1;
    auto rows_join = [&](const Image &image) {
      return conv.target_step[0] == 1 && conv.target_step[1] == 1 &&
             image.row_stride == conv.lattice_width * image.column_stride;
    };
    join_rows_ = rows_join(conv.target) && (!conv.partner || rows_join(*conv.partner));
  }

  // Units are ordered part, tile, group: neighbours share their part of the weight.
  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t part = unit / (conv_.tiles * conv_.groups), rest = unit % (conv_.tiles * conv_.groups);
      run_tile(rest / conv_.groups, rest % conv_.groups, part);
    }
  }

private:
  static int64_t chunk_channels(const ConvParams &conv) {
    const int64_t taps = conv.tap_count > 0 ? conv.tap_count : 1;
    // With one sample, scratch decides the peak of memory: half of it for a hundredth of the time.
    const int64_t chunk = conv.share_rows && conv.batch == 1 ? kChunk / 2 : kChunk;
    int64_t channels = chunk / taps > 0 ? chunk / taps : 1;
    if (channels > kLanes<T>)
      channels = channels / kLanes<T> * kLanes<T>;
    return channels < conv.in_channels ? channels : conv.in_channels;
  }

  void run_tile(int64_t tile, int64_t group, int64_t part) {
    const int64_t row_begin = part * rows_per_part_;
    int64_t row_end = row_begin + rows_per_part_;
    row_end = row_end < conv_.out_channels ? row_end : conv_.out_channels;
    if (row_begin >= row_end)
      return;
    tile_index_ = tile;
    const auto [first, last] = tile_range(conv_, tile, kLanes<T>);
    tile_.first = first;
    tile_.count = last - first;
    if (tile_.count <= 0)
      return;
    const int64_t vectors = (tile_.count + kLanes<T> - 1) / kLanes<T>;
    cut_into_segments(tile_, conv_);
    join_segments();
    if (conv_.share_rows) {
      shared_.cut_into_pieces(tile_);
      shared_.set_sample(tile_.segments[0].sample);
    } else if (!from_channels_)
      cut_into_pieces<T>(tile_, conv_);

    int64_t channel = 0;
    do {
      const int64_t chunk_end =
          channel + channels_per_chunk_ < conv_.in_channels ? channel + channels_per_chunk_ : conv_.in_channels;
      build_columns(group, channel, chunk_end);
      const T *weight =
          static_cast<const T *>(conv_.weight) + group * conv_.weight_group + channel * conv_.weight_channel;
      const int64_t count = (chunk_end - channel) * conv_.tap_count;
      for (int64_t strip = row_begin; strip < row_end; strip += kStripRows) {
        const int64_t strip_end = strip + kStripRows < row_end ? strip + kStripRows : row_end;
        T *result = result_ + (one_chunk_ ? 0 : (strip - row_begin) * result_row_);
        if (conv_.share_rows)
          shared_.scale_weight(weight, strip, strip_end, chunk_end - channel);
        multiply_strip(result, weight, strip, strip_end, count, vectors, channel == 0);
        if (chunk_end == conv_.in_channels)
          finish(result, group, strip, strip_end);
      }
      channel = chunk_end;
    } while (channel < conv_.in_channels);
  }

  // Where the target's rows follow one another in memory, a sample's segments are finished as one.
  void join_segments() {
    run_count_ = 0;
    for (int64_t g = 0; g < tile_.segment_count; ++g) {
      const Segment &segment = tile_.segments[g];
      if (join_rows_ && run_count_ > 0 && runs_[run_count_ - 1].sample == segment.sample)
        runs_[run_count_ - 1].length += segment.length;
      else
        runs_[run_count_++] = segment;
    }
  }

  void build_columns(int64_t group, int64_t channel_begin, int64_t channel_end) {
    const int64_t channels = channel_end - channel_begin;
    if (conv_.share_rows)
      return build_shared_rows(group, channel_begin, channel_end);
    const bool tap_outermost = conv_.tap_count > 1 && conv_.taps[1].weight > conv_.weight_channel;
    const ColumnOrder order = tap_outermost ? ColumnOrder{1, channels} : ColumnOrder{conv_.tap_count, 1};
    if (channels != offsets_for_) {
      offsets_for_ = channels;
      for (int64_t i = 0; i < channels; ++i)
        for (int64_t t = 0; t < conv_.tap_count; ++t)
          a_offset_[i * order.row_of_channel + t * order.row_of_tap] = i * conv_.weight_channel + conv_.taps[t].weight;
    }
    if (from_channels_)
      columns_from_channels<S, T>(columns_, columns_row_, order, conv_, tile_, group, channel_begin, channel_end);
    else
      columns_from_rows<S, T>(columns_, columns_row_, order, conv_, tile_, group, channel_begin, channel_end);
  }

  void build_shared_rows(int64_t group, int64_t channel_begin, int64_t channel_end) {
    const int64_t channels = channel_end - channel_begin, taps = conv_.tap_count;
    if (channels != offsets_for_) {
      offsets_for_ = channels;
      for (int64_t k = 0; k < channels * taps; ++k) {
        a_offset_[k] = shared_.weight_offset(k / taps, k % taps);
        b_offset_[k] = shared_.offset(k / taps, k % taps, columns_row_);
      }
    }
    columns_from_rows<S, T>(columns_, columns_row_, ColumnOrder{shared_.rows().tap_count, 1}, shared_.rows(), tile_,
                            group, channel_begin, channel_end);
  }

  void multiply_strip(T *result, const T *weight, int64_t row_begin, int64_t row_end, int64_t count, int64_t vectors,
                      bool fresh) {
    const int64_t a_row = conv_.share_rows ? shared_.row() : conv_.weight_row;
    for (int64_t row = row_begin; row < row_end; row += kRows, result += kRows * result_row_) {
      const int rows = row_end - row < kRows ? int(row_end - row) : kRows;
      const T *a = conv_.share_rows ? shared_.weight() + (row - row_begin) / kRows * shared_.block_step()
                                    : weight + row / kRows * conv_.weight_block;
      for (int64_t v = 0; v < vectors;) {
        const int panel = next_panel(vectors - v);
        with_block_size(rows, panel, [&]<int MR, int NV>() {
          multiply_block<MR, NV, T>(a, a_row, a_offset_, columns_ + v * kLanes<T>, b_offset_, count,
                                    result + v * kLanes<T>, result_row_, fresh);
        });
        v += panel;
      }
    }
  }

  T out_scale(int64_t sample, int64_t channel) const {
    return static_cast<const T *>(conv_.out_scale.data)[sample * conv_.out_scale.batch_stride + channel];
  }
  T bias(int64_t sample, int64_t channel) const {
    return conv_.bias.data ? static_cast<const T *>(conv_.bias.data)[sample * conv_.bias.batch_stride + channel] : T(0);
  }
  T *partial(int64_t sample) const {
    return static_cast<T *>(conv_.partial) + (tile_index_ + sample) * conv_.groups * conv_.out_channels;
  }
  template <class P> static P *at(const Image &image, int64_t sample, int64_t channel, int64_t row, int64_t column) {
    return static_cast<P *>(image.data) + sample * image.batch_stride + channel * image.channel_stride +
           row * image.row_stride + column * image.column_stride;
  }

  void finish(const T *result, int64_t group, int64_t row_begin, int64_t row_end) {
    const bool channels_last = conv_.target.column_stride != 1 && conv_.target.channel_stride == 1;
    const int64_t channel = group * conv_.out_channels + row_begin;
    const int64_t channels = row_end - row_begin;
    int64_t sample = -1;
    for (int64_t g = 0; g < run_count_; ++g) {
      const Segment &segment = runs_[g];
      if (conv_.partner && segment.sample != sample) {
        T *sums = partial(segment.sample) + channel;
        for (int64_t m = 0; m < channels; ++m)
          sums[m] = 0;
      }
      sample = segment.sample;
      if (channels_last)
        finish_channels(result, segment, channel, channels);
      else
        finish_rows(result, segment, channel, channels);
    }
  }

  void finish_rows(const T *result, const Segment &segment, int64_t channel, int64_t channels) {
    const int64_t row = conv_.target_origin[0] + segment.row * conv_.target_step[0];
    const int64_t column = conv_.target_origin[1] + segment.column * conv_.target_step[1];
    const int64_t step = conv_.target_step[1] * conv_.target.column_stride;
    for (int64_t m = 0; m < channels; ++m) {
      const T *raw = result + m * result_row_ + segment.start;
      const T scale = out_scale(segment.sample, channel + m), shift = bias(segment.sample, channel + m);
      S *out = at<S>(conv_.target, segment.sample, channel + m, row, column);
      int64_t j = 0;
      if (step == 1) {
        for (; j + kLanes<T> <= segment.length; j += kLanes<T>)
          store(out + j, load(raw + j) * splat(scale) + splat(shift));
        if (j < segment.length)
          store_first(out + j, load(raw + j) * splat(scale) + splat(shift), segment.length - j);
      } else {
        for (; j < segment.length; ++j)
          put(out + j * step, raw[j] * scale + shift);
      }
      if (conv_.partner)
        partial(segment.sample)[channel + m] +=
            dot(raw, at<const S>(*conv_.partner, segment.sample, channel + m, row, column),
                conv_.target_step[1] * conv_.partner->column_stride, segment.length);
    }
  }

  static T dot(const T *raw, const S *partner, int64_t step, int64_t length) {
    Vec<T> sums{};
    T sum = 0;
    int64_t j = 0;
    if (step == 1) {
      for (; j + kLanes<T> <= length; j += kLanes<T>)
        sums += load(raw + j) * load(partner + j);
      if (j < length)
        sums += load_first(raw + j, length - j) * load_first(partner + j, length - j);
    } else {
      for (; j < length; ++j)
        sum += raw[j] * get(partner + j * step);
    }
    return sum + sum_lanes<T>(sums);
  }

  void finish_channels(const T *result, const Segment &segment, int64_t channel, int64_t channels) {
    constexpr int lanes = kLanes<T>;
    const int64_t row = conv_.target_origin[0] + segment.row * conv_.target_step[0];
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t width = channels - c < lanes ? channels - c : lanes;
      const T *scales =
          static_cast<const T *>(conv_.out_scale.data) + segment.sample * conv_.out_scale.batch_stride + channel + c;
      const Vec<T> scale = load_first_or_all(scales, width);
      const Vec<T> shift = conv_.bias.data
                               ? load_first_or_all(static_cast<const T *>(conv_.bias.data) +
                                                       segment.sample * conv_.bias.batch_stride + channel + c,
                                                   width)
                               : Vec<T>{};
      Vec<T> sums{};
      for (int64_t j = 0; j < segment.length; j += lanes) {
        const int64_t pixels = segment.length - j < lanes ? segment.length - j : lanes;
        Vec<T> block[lanes];
        for (int m = 0; m < lanes; ++m)
          block[m] =
              m < width ? load_first_or_all(result + (c + m) * result_row_ + segment.start + j, pixels) : Vec<T>{};
        transpose<T>(block);
        for (int64_t p = 0; p < pixels; ++p) {
          const int64_t column = conv_.target_origin[1] + (segment.column + j + p) * conv_.target_step[1];
          S *out = at<S>(conv_.target, segment.sample, channel + c, row, column);
          const Vec<T> value = block[p] * scale + shift;
          if (width == lanes)
            store(out, value);
          else
            store_first(out, value, width);
          if (conv_.partner) {
            const S *partner = at<const S>(*conv_.partner, segment.sample, channel + c, row, column);
            if (conv_.partner->channel_stride == 1)
              sums += block[p] * load_first_or_all(partner, width);
            else
              for (int64_t m = 0; m < width; ++m)
                sums[m] += block[p][m] * get(partner + m * conv_.partner->channel_stride);
          }
        }
      }
      if (conv_.partner) {
        T *totals = partial(segment.sample) + channel + c;
        for (int64_t m = 0; m < width; ++m)
          totals[m] += sums[m];
      }
    }
  }

  template <class P> static Vec<T> load_first_or_all(const P *p, int64_t count) {
    return count == kLanes<T> ? load(p) : load_first(p, count);
  }

  const ConvParams &conv_;
  int64_t channels_per_chunk_;
  SharedRows<T> shared_;
  int64_t columns_row_, result_row_, rows_per_part_;
  bool one_chunk_, from_channels_, join_rows_;
  T *columns_ = nullptr, *result_ = nullptr;
  int64_t *a_offset_ = nullptr, *b_offset_ = nullptr;
  int64_t offsets_for_ = -1; // channels of the chunk that a_offset_ is made for
  TilePixels tile_{};
  Segment *runs_ = nullptr;
  int64_t run_count_ = 0;
  int64_t tile_index_ = 0;
};

template <class S, class T> void gemm_nchw(const ConvParams &conv, int64_t begin, int64_t end) {
  GemmNchw<S, T>(conv).run(begin, end);
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
