// The pixel operand of the product: for a tile of target pixels, the matrix
//
//     columns[(i, t)][pixel] = in_scale[n,i] * tap_scale[n,t] * source[n, i, q(pixel, t)]      (zero outside the source)
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

inline int64_t cut_into_segments(Segment *segments, const TileConv &conv, int64_t first, int64_t last) {
  int64_t count = 0;
  const int64_t pixels = conv.lattice_height * conv.lattice_width;
  for (int64_t p = first; p < last;) {
    const int64_t sample = p / pixels, in_sample = p % pixels;
    const int64_t row = in_sample / conv.lattice_width, column = in_sample % conv.lattice_width;
    const int64_t in_row = conv.lattice_width - column;
    const int64_t length = in_row < last - p ? in_row : last - p;
    segments[count++] = {sample, row, column, length, p - first};
    p += length;
  }
  return count;
}

// The part [begin, end) of a segment that reads inside a source row of `width` pixels, at first + j * step.
struct Inside {
  int64_t begin, end;
};
KERNELDNA_INLINE Inside inside(int64_t first, int64_t step, int64_t width, int64_t length) {
  int64_t begin = first < 0 ? (-first + step - 1) / step : 0;
  int64_t end = width > first ? (width - first + step - 1) / step : 0;
  end = end < length ? end : length;
  begin = begin < end ? begin : end;
  return {begin, end};
}

// row[0..count) = scale * source[0, step, ...]; may write up to a vector behind the end, reads nothing behind it.
template <class S, class T>
KERNELDNA_INLINE void scale_pixels(T *row, const S *source, int64_t step, int64_t count, T scale) {
  const Vec<T> factor = splat(scale);
  int64_t j = 0;
  if (step == 1) {
    for (; j + kLanes<T> <= count; j += kLanes<T>)
      store(row + j, load(source + j) * factor);
    if (j < count)
      store(row + j, load_first(source + j, count - j) * factor);
  } else {
    for (; j < count; ++j)
      row[j] = get(source + j * step) * scale;
  }
}

// Source with adjacent pixels adjacent in memory (NCHW): channel by channel, along the rows.
template <class S, class T>
void columns_from_rows(T *columns, int64_t columns_row, const TileConv &conv, const Segment *segments,
                       int64_t segment_count, int64_t group, int64_t channel_begin, int64_t channel_end) {
  const Image &source = conv.source;
  const int64_t step = conv.source_step[1];
  for (int64_t g = 0; g < segment_count; ++g) {
    const Segment &segment = segments[g];
    const T *in_scale = static_cast<const T *>(conv.in_scale.data) + segment.sample * conv.in_scale.batch_stride +
                        group * conv.in_channels;
    const T *tap_scale = static_cast<const T *>(conv.tap_scale.data) + segment.sample * conv.tap_scale.batch_stride;
    const S *sample = static_cast<const S *>(source.data) + segment.sample * source.batch_stride +
                      group * conv.in_channels * source.channel_stride;
    for (int64_t t = 0; t < conv.tap_count; ++t) {
      const Tap &tap = conv.taps[t];
      const int64_t row = segment.row * conv.source_step[0] + tap.row;
      const int64_t first = segment.column * step + tap.column;
      Inside part{0, 0};
      if (row >= 0 && row < source.height)
        part = inside(first, step, source.width, segment.length);
      const T scale = tap_scale[tap.scale];
      T *out = columns + t * columns_row + segment.start;
      const S *pixels = sample + row * source.row_stride + (first + part.begin * step) * source.column_stride;
      for (int64_t i = channel_begin; i < channel_end; ++i, out += conv.tap_count * columns_row) {
        for (int64_t j = 0; j < part.begin; ++j)
          out[j] = 0;
        scale_pixels(out + part.begin, pixels + i * source.channel_stride, step * source.column_stride,
                     part.end - part.begin, in_scale[i] * scale);
        for (int64_t j = part.end; j < segment.length; ++j)
          out[j] = 0;
      }
    }
  }
}

// Source with adjacent channels adjacent in memory (channels_last): a vector of pixels by a vector of channels at a
// time, transposed in registers.
template <class S, class T>
void columns_from_channels(T *columns, int64_t columns_row, const TileConv &conv, const Segment *segments,
                           int64_t segment_count, int64_t group, int64_t channel_begin, int64_t channel_end) {
  constexpr int lanes = kLanes<T>;
  const Image &source = conv.source;
  const int64_t channel_base = group * conv.in_channels;
  int64_t g = 0, in_segment = 0;
  for (int64_t start = 0; g < segment_count; start += lanes) {
    // The pixels of this vector; they may lie in several segments, and the last vector may be short.
    int64_t samples[lanes], rows[lanes], first_columns[lanes];
    int count = 0;
    while (count < lanes && g < segment_count) {
      const Segment &segment = segments[g];
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
        in_scales[j] = static_cast<const T *>(conv.in_scale.data) + samples[j] * conv.in_scale.batch_stride +
                       channel_base;
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
        T *out = columns + ((i - channel_begin) * conv.tap_count + t) * columns_row + start;
        for (int64_t c = 0; c < channels; ++c)
          store(out + c * conv.tap_count * columns_row, block[c]);
      }
    }
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
