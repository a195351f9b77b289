// The pixel operand of gemm_nchw.h, its im2col matrix: for a tile of target pixels, the matrix
//
//     columns[(i, t)][pixel] = in_scale[n,i] * tap_scale[n,t] * source[n, i, q(pixel, t)]      (zero outside the
//     source)
//
// with c and s folded in on the way. A tile is a run of lattice pixels in the order (n, row, column); it may begin
// anywhere and may cross rows and samples, so that small maps fill it too.
#pragma once

#include "conv_params.h"
#include "simd.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// A run of a tile's pixels within one lattice row.
struct Segment {
  int64_t sample, row, column, length;
  int64_t start; // in the tile
};

// Up to a vector of a column's pixels that stand `step` apart in the source.
struct Piece {
  int64_t source; // of lane 0, from the first channel of sample 0; may lie outside where the mask says so
  int32_t start;  // in the tile
  int32_t sample;
  uint32_t mask; // lanes that read inside the source
};

// The tile that a unit of work deals with: its pixels, cut up as the loops need them.
struct TilePixels {
  int64_t first, count; // lattice pixels
  Segment *segments;
  int64_t segment_count;
  Piece *pieces; // for columns_from_rows: those of tap t are pieces[tap_begin[t]] to pieces[tap_begin[t + 1]]
  int64_t *tap_begin;
  uint64_t *inside; // a bit per pixel
};

inline void cut_into_segments(TilePixels &tile, const ConvParams &conv) {
  tile.segment_count = 0;
  const int64_t pixels = conv.lattice_height * conv.lattice_width;
  for (int64_t p = tile.first, last = p + tile.count; p < last;) {
    const int64_t sample = p / pixels, in_sample = p % pixels;
    const int64_t row = in_sample / conv.lattice_width, column = in_sample % conv.lattice_width;
    const int64_t in_row = conv.lattice_width - column;
    const int64_t length = in_row < last - p ? in_row : last - p;
    tile.segments[tile.segment_count++] = {sample, row, column, length, p - tile.first};
    p += length;
  }
}

inline void set_bits(uint64_t *bits, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end;) {
    const int64_t in_word = 64 - i % 64, length = in_word < end - i ? in_word : end - i;
    bits[i / 64] |= (length == 64 ? ~uint64_t(0) : (uint64_t(1) << length) - 1) << i % 64;
    i += length;
  }
}

// Rows of a dense source that is as wide as the lattice follow one another as the lattice's rows do, whatever the tap:
// pieces then run on over the ends of rows, which the mask takes care of.
inline bool rows_run_on(const ConvParams &conv) {
  return conv.source_step[0] == 1 && conv.source_step[1] == 1 && conv.lattice_width == conv.source.width &&
         conv.source.row_stride == conv.source.width && conv.source.column_stride == 1;
}

template <class T> void cut_into_pieces(TilePixels &tile, const ConvParams &conv) {
  constexpr int64_t lanes = kLanes<T>;
  const Image &source = conv.source;
  const int64_t step = conv.source_step[1], words = (tile.count + 63) / 64;
  const bool run_on = rows_run_on(conv);
  int64_t piece_count = 0;
  for (int64_t t = 0; t < conv.tap_count; ++t) {
    const Tap &tap = conv.taps[t];
    tile.tap_begin[t] = piece_count;
    for (int64_t word = 0; word <= words; ++word)
      tile.inside[word] = 0;
    for (int64_t g = 0; g < tile.segment_count; ++g) {
      const Segment &segment = tile.segments[g];
      const int64_t row = segment.row * conv.source_step[0] + tap.row;
      if (row < 0 || row >= source.height)
        continue;
      const int64_t first = segment.column * step + tap.column;
      int64_t begin = first < 0 ? (-first + step - 1) / step : 0;
      int64_t end = source.width > first ? (source.width - first + step - 1) / step : 0;
      end = end < segment.length ? end : segment.length;
      if (begin < end)
        set_bits(tile.inside, segment.start + begin, segment.start + end);
    }
    for (int64_t g = 0; g < tile.segment_count; ++g) {
      const Segment &segment = tile.segments[g];
      const int64_t origin = segment.sample * source.batch_stride +
                             (segment.row * conv.source_step[0] + tap.row) * source.row_stride +
                             (segment.column * step + tap.column) * source.column_stride;
      int64_t length = segment.length;
      if (run_on)
        while (g + 1 < tile.segment_count && tile.segments[g + 1].sample == segment.sample)
          length += tile.segments[++g].length;
      // Pieces end at multiples of the vector length, so that all but the first are stored aligned.
      for (int64_t j = 0; j < length;) {
        const int64_t start = segment.start + j;
        const int64_t room = lanes - start % lanes, count = room < length - j ? room : length - j;
        const uint64_t low = tile.inside[start / 64] >> start % 64;
        const uint64_t high = start % 64 ? tile.inside[start / 64 + 1] << (64 - start % 64) : 0;
        const uint32_t mask = uint32_t(low | high) & ((1u << count) - 1);
        tile.pieces[piece_count++] = {origin + j * step * source.column_stride, int32_t(start), int32_t(segment.sample),
                                      mask};
        j += count;
      }
    }
  }
  tile.tap_begin[conv.tap_count] = piece_count;
}

// Row (i, t) of the columns: which of the two runs faster follows the layout of the weight, so that it is read in
// order.
struct ColumnOrder {
  int64_t row_of_channel, row_of_tap;
};

// row[piece] = scale * source[piece] for the pieces of one channel and tap. Padding stays zero under an infinite scale.
template <bool UnitStep, class S, class T, class ScaleOf>
KERNELDNA_INLINE void copy_pieces(T *row, const S *source, const Piece *piece, const Piece *end, int64_t step,
                                  ScaleOf scale_of) {
  constexpr uint32_t all = (1u << kLanes<T>)-1;
  for (; piece < end; ++piece) {
    const Vec<T> value =
        load_masked(source + piece->source, piece->mask, UnitStep ? 1 : step) * scale_of(piece->sample);
    store(row + piece->start, piece->mask == all ? value : keep_masked<T>(value, piece->mask));
  }
}

// Source with adjacent pixels adjacent in memory (NCHW): channel by channel.
template <class S, class T>
void columns_from_rows(T *columns, int64_t columns_row, ColumnOrder order, const ConvParams &conv,
                       const TilePixels &tile, int64_t group, int64_t channel_begin, int64_t channel_end) {
  const int64_t step = conv.source_step[1] * conv.source.column_stride;
  const int64_t first_channel = group * conv.in_channels;
  const T *in_scales = static_cast<const T *>(conv.in_scale.data) + first_channel;
  const T *tap_scales = static_cast<const T *>(conv.tap_scale.data);
  const int64_t first_sample = tile.segments[0].sample;
  const bool one_sample = tile.segments[tile.segment_count - 1].sample == first_sample;
  for (int64_t i = channel_begin; i < channel_end; ++i) {
    const S *channel = static_cast<const S *>(conv.source.data) + (first_channel + i) * conv.source.channel_stride;
    T *row = columns + (i - channel_begin) * order.row_of_channel * columns_row;
    for (int64_t t = 0; t < conv.tap_count; ++t, row += order.row_of_tap * columns_row) {
      const Piece *piece = tile.pieces + tile.tap_begin[t], *end = tile.pieces + tile.tap_begin[t + 1];
      auto scale_of = [&](int64_t sample) {
        return splat(in_scales[sample * conv.in_scale.batch_stride + i] *
                     tap_scales[sample * conv.tap_scale.batch_stride + conv.taps[t].scale]);
      };
      const Vec<T> scale = scale_of(first_sample);
      auto same_scale = [&](int64_t) { return scale; };
      if (step == 1 && one_sample)
        copy_pieces<true>(row, channel, piece, end, step, same_scale);
      else if (step == 1)
        copy_pieces<true>(row, channel, piece, end, step, scale_of);
      else
        copy_pieces<false>(row, channel, piece, end, step, scale_of);
    }
  }
}

// Source with adjacent channels adjacent in memory (channels_last): a vector of pixels by a vector of channels at a
// time, transposed in registers.
template <class S, class T>
void columns_from_channels(T *columns, int64_t columns_row, ColumnOrder order, const ConvParams &conv,
                           const TilePixels &tile, int64_t group, int64_t channel_begin, int64_t channel_end) {
  constexpr int lanes = kLanes<T>;
  const Image &source = conv.source;
  const int64_t channel_base = group * conv.in_channels;
  int64_t g = 0, in_segment = 0;
  for (int64_t start = 0; g < tile.segment_count; start += lanes) {
    // The pixels of this vector; they may lie in several segments, and the last vector may be short.
    int64_t samples[lanes], rows[lanes], first_columns[lanes];
    int count = 0;
    while (count < lanes && g < tile.segment_count) {
      const Segment &segment = tile.segments[g];
      samples[count] = segment.sample;
      rows[count] = segment.row * conv.source_step[0];
      first_columns[count] = (segment.column + in_segment) * conv.source_step[1];
      ++count;
      if (++in_segment == segment.length) {
        in_segment = 0;
        ++g;
      }
    }
    for (int64_t t = 0; t < conv.tap_count; ++t) {
      const Tap &tap = conv.taps[t];
      const S *pixels[lanes];
      const T *in_scales[lanes];
      T tap_scales[lanes];
      for (int j = 0; j < count; ++j) {
        const int64_t row = rows[j] + tap.row, column = first_columns[j] + tap.column;
        const bool outside = row < 0 || row >= source.height || column < 0 || column >= source.width;
        pixels[j] = outside ? nullptr
                            : static_cast<const S *>(source.data) + samples[j] * source.batch_stride +
                                  row * source.row_stride + column * source.column_stride + channel_base;
        in_scales[j] =
            static_cast<const T *>(conv.in_scale.data) + samples[j] * conv.in_scale.batch_stride + channel_base;
        tap_scales[j] =
            static_cast<const T *>(conv.tap_scale.data)[samples[j] * conv.tap_scale.batch_stride + tap.scale];
      }
      for (int64_t i = channel_begin; i < channel_end; i += lanes) {
        const int64_t channels = channel_end - i < lanes ? channel_end - i : lanes;
        Vec<T> block[lanes];
        for (int j = 0; j < lanes; ++j) {
          block[j] = Vec<T>{};
          if (j < count && pixels[j])
            block[j] = (channels == lanes ? load(pixels[j] + i) : load_first(pixels[j] + i, channels)) *
                       (splat(tap_scales[j]) *
                        (channels == lanes ? load(in_scales[j] + i) : load_first(in_scales[j] + i, channels)));
        }
        transpose<T>(block);
        T *out = columns + ((i - channel_begin) * order.row_of_channel + t * order.row_of_tap) * columns_row + start;
        for (int64_t c = 0; c < channels; ++c)
          store(out + c * order.row_of_channel * columns_row, block[c]);
      }
    }
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
