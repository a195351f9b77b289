// Large maps in gemm_nchw (share_rows): the rows of columns that differ only in the row of their tap are one row, read
// from different places. A tile lies in one sample; c goes into the rows, s and what a sample mixes into a copy of the
// weight at hand.
//
// It takes a dense source as wide as the lattice, so that tap (row, column) of pixel p stands row * width further on.
#pragma once

#include "im2col.h"
#include "microkernel.h"
#include "mix_elements.h"
#include "scratch.h"
#include "taps.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

template <class T> class SharedRows {
public:
  // Sizes alone: memory comes with lay_out.
  SharedRows(const ConvParams &conv, int64_t chunk) : conv_(conv) {
    if (!conv.share_rows)
      return;
    const TapExtent extent = extent_of(conv.taps, conv.tap_count);
    first_row_ = extent.first_row;
    halo_ = (extent.rows() - 1) * conv.lattice_width;
    in_place_ = conv.weight_row != conv.tap_count; // else packed: the filters of a block within a channel
    block_ = in_place_ ? 1 : kRows;
    pattern_size_ = in_place_ ? chunk : conv.tap_count * kRows;
  }

  int64_t halo() const { return halo_; }

  // `strip` filters are scaled at a time.
  void lay_out(ScratchParts &parts, int64_t strip, int64_t chunk) {
    parts(columns_, conv_.tap_count);
    parts(column_of_, conv_.tap_count);
    parts(weight_, strip * chunk + kLanes<T>);
    parts(pattern_, pattern_size_ + kLanes<T>);
    parts(one_, 1);
  }

  void start() {
    *one_ = 1;
    int64_t count = 0;
    for (int64_t t = 0; t < conv_.tap_count; ++t) {
      int64_t k = 0;
      while (k < count && columns_[k].column != conv_.taps[t].column)
        ++k;
      if (k == count)
        columns_[count++] = {first_row_, conv_.taps[t].column, 0, 0};
      column_of_[t] = {conv_.taps[t].row - first_row_, k, 0, 0};
    }
    rows_ = conv_;
    rows_.taps = columns_;
    rows_.tap_count = count;
    rows_.tap_scale = {one_, 0};
  }

  // The convolution whose columns the shared rows are: one tap for each column of taps, and no s.
  const ConvParams &rows() const { return rows_; }

  // Where tap t of channel i (of the chunk) begins in the columns.
  int64_t offset(int64_t i, int64_t t, int64_t columns_row) const {
    return (i * rows_.tap_count + column_of_[t].column) * columns_row + column_of_[t].row * conv_.lattice_width;
  }

  // The pieces of the tile's pixels and the halo behind them, for every column of taps.
  void cut_into_pieces(TilePixels &tile) const {
    const Image &source = conv_.source;
    const int64_t width = source.width, pixels = conv_.lattice_height * width, lanes = kLanes<T>;
    const int64_t sample = tile.first / pixels, first = tile.first % pixels + first_row_ * width;
    const int64_t count = tile.count + halo_;
    int64_t piece_count = 0;
    for (int64_t t = 0; t < rows_.tap_count; ++t) {
      const int64_t column = rows_.taps[t].column;
      const int64_t begin = column < 0 ? -column : 0, end = column > 0 ? width - column : width; // inside, of a row
      tile.tap_begin[t] = piece_count;
      int64_t q = first, x = (first % width + width) % width; // source pixel and its column, where the tap is in place
      for (int64_t j = 0; j < count; j += lanes) {
        uint32_t mask = 0;
        for (int64_t lane = 0; lane < lanes && j + lane < count; ++lane, ++q) {
          mask |= uint32_t(q >= 0 && q < pixels && x >= begin && x < end) << lane;
          x = x + 1 == width ? 0 : x + 1;
        }
        tile.pieces[piece_count++] = {sample * source.batch_stride + first + j + column, int32_t(j), int32_t(sample),
                                      mask};
      }
    }
    tile.tap_begin[rows_.tap_count] = piece_count;
  }

  // s of the sample, along the weight.
  void set_sample(int64_t sample) {
    sample_ = sample;
    const T *tap_scale = static_cast<const T *>(conv_.tap_scale.data) + sample * conv_.tap_scale.batch_stride;
    for (int64_t k = 0; k < pattern_size_; ++k)
      pattern_[k] = tap_scale[conv_.taps[k % conv_.tap_count].scale];
  }

  // The weight of filters [row_begin, row_end) and a chunk of channels, of the sample and times s, as blocks of rows.
  void scale_weight(const T *weight, int64_t row_begin, int64_t row_end, int64_t channels) {
    const int64_t taps = conv_.tap_count, chunk = channels * taps;
    row_ = in_place_ ? chunk : taps;
    block_step_ = kRows * chunk;
    T *out = weight_;
    weight += sample_ * conv_.weight_sample;
    for (int64_t row = row_begin; row < row_end; row += kRows) {
      const T *in = weight + row / kRows * conv_.weight_block;
      const int64_t rows = row_end - row < kRows ? row_end - row : kRows;
      if (in_place_)
        for (int64_t m = 0; m < rows; ++m)
          scale(out + m * chunk, in + m * conv_.weight_row, chunk);
      else
        for (int64_t i = 0; i < channels; ++i)
          scale(out + i * kRows * taps, in + i * conv_.weight_channel, rows * taps);
      out += block_step_;
    }
  }

  const T *weight() const { return weight_; }
  int64_t row() const { return row_; }
  int64_t block_step() const { return block_step_; }
  int64_t weight_offset(int64_t i, int64_t t) const { return i * block_ * conv_.tap_count + t; }

private:
  void scale(T *out, const T *in, int64_t count) const {
    if (conv_.kernels) {
      mix_elements(out, in, conv_.weight_kernel,
                   static_cast<const T *>(conv_.mix.data) + sample_ * conv_.mix.batch_stride, conv_.kernels, count);
      in = out;
    }
    int64_t k = 0;
    for (; k + kLanes<T> <= count; k += kLanes<T>)
      store(out + k, load(in + k) * load(pattern_ + k));
    if (k < count)
      store_first(out + k, load_first(in + k, count - k) * load_first(pattern_ + k, count - k), count - k);
  }

  const ConvParams &conv_;
  ConvParams rows_{};
  int64_t sample_ = 0, first_row_ = 0, halo_ = 0, block_ = 1, pattern_size_ = 0, row_ = 0, block_step_ = 0;
  bool in_place_ = true;
  Tap *columns_ = nullptr, *column_of_ = nullptr; // the distinct columns of taps; of each tap, which, and its row
  T *weight_ = nullptr, *pattern_ = nullptr, *one_ = nullptr;
};

} // namespace kerneldna::cpu::KERNELDNA_ISA
