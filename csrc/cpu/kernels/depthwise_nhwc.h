// Depthwise convolution of adjacent channels (channels_last), one channel per group on both sides: a vector of channels
// at a time, for a few adjacent pixels that share the load of a factor.
#pragma once

#include "conv_params.h"
#include "microkernel.h"
#include "scratch.h"
#include "simd.h"
#include "taps.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// A unit of work is a part of the channels of a sample.
template <class S, class T> class DepthwiseNhwc {
public:
  explicit DepthwiseNhwc(const ConvParams &conv) : conv_(conv) {
    part_ = ((conv.groups + conv.out_split - 1) / conv.out_split + lanes - 1) / lanes * lanes;
    const TapExtent extent = extent_of(conv.taps, conv.tap_count);
    const int64_t step = conv.source_step[1], last = conv.source.width - 1 - extent.last_column;
    inner_begin_ = extent.first_column < 0 ? (-extent.first_column + step - 1) / step : 0;
    inner_end_ = last < 0 ? 0 : last / step + 1;
    inner_end_ = inner_end_ < conv.lattice_width ? inner_end_ : conv.lattice_width;
    thread_scratch().lay_out([&](ScratchParts &parts) {
      parts(factors_, conv.tap_count * part_);
      parts(sums_, part_);
      parts(row_sums_, part_);
      parts(reached_, conv.tap_count);
    });
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      sample_ = unit / conv_.out_split;
      first_ = unit % conv_.out_split * part_;
      channels_ = conv_.groups - first_ < part_ ? conv_.groups - first_ : part_;
      if (channels_ <= 0)
        continue;
      set_factors();
      for (int64_t row = 0; row < conv_.lattice_height; ++row)
        run_row(row);
      if (conv_.partner)
        std::memcpy(static_cast<T *>(conv_.partial) + sample_ * conv_.groups + first_, sums_, channels_ * sizeof(T));
    }
  }

private:
  static constexpr int64_t lanes = kLanes<T>;

  // A tap that reads inside the source.
  struct Reached {
    const T *factors;
    int64_t offset; // from the source pixel of the lattice pixel
  };

  Vec<T> scales(const Scale &scale, int64_t c, int64_t count) const {
    return load_first(static_cast<const T *>(scale.data) + sample_ * scale.batch_stride + first_ + c, count);
  }

  void set_factors() {
    const T *tap_scale = static_cast<const T *>(conv_.tap_scale.data) + sample_ * conv_.tap_scale.batch_stride;
    const T *weight =
        static_cast<const T *>(conv_.weight) + sample_ * conv_.weight_sample + first_ * conv_.weight_group;
    for (int64_t c = 0; c < channels_; c += lanes) {
      const int64_t count = channels_ - c < lanes ? channels_ - c : lanes;
      store(sums_ + c, Vec<T>{});
      store(row_sums_ + c, Vec<T>{});
      for (int64_t t = 0; t < conv_.tap_count; ++t)
        store(factors_ + t * part_ + c, load_masked(weight + c * conv_.weight_group + conv_.taps[t].weight,
                                                    (1u << count) - 1, conv_.weight_group) *
                                            splat(tap_scale[conv_.taps[t].scale]) * scales(conv_.in_scale, c, count));
    }
  }

  void run_row(int64_t row) {
    for (int64_t column = 0; column < conv_.lattice_width;) {
      int64_t count = 1;
      if (column >= inner_begin_ && column < inner_end_) { // every tap reads inside its row
        const int64_t left = inner_end_ - column, blocks = (left + kRows - 1) / kRows;
        count = (left + blocks - 1) / blocks;
      }
      if (count == 1 || column == inner_begin_)
        find_reached(row, column);
      with_block_size(int(count), 1, [&]<int Pixels, int>() { run_pixels<Pixels>(row, column); });
      column += count;
    }
    if (conv_.partner)
      for (int64_t c = 0; c < channels_; c += lanes) {
        store(sums_ + c, load(sums_ + c) + load(row_sums_ + c));
        store(row_sums_ + c, Vec<T>{});
      }
  }

  void find_reached(int64_t lattice_row, int64_t lattice_column) {
    const Image &source = conv_.source;
    reached_count_ = 0;
    for (int64_t t = 0; t < conv_.tap_count; ++t) {
      const Tap &tap = conv_.taps[t];
      const int64_t row = lattice_row * conv_.source_step[0] + tap.row;
      const int64_t column = lattice_column * conv_.source_step[1] + tap.column;
      if (row >= 0 && row < source.height && column >= 0 && column < source.width)
        reached_[reached_count_++] = {factors_ + t * part_,
                                      tap.row * source.row_stride + tap.column * source.column_stride};
    }
  }

  template <int Pixels> void run_pixels(int64_t row, int64_t column) {
    int64_t c = 0;
    for (; c + lanes <= channels_; c += lanes)
      run_vector<Pixels, true>(row, column, c, lanes);
    if (c < channels_)
      run_vector<Pixels, false>(row, column, c, channels_ - c);
  }

  template <bool Whole> static Vec<T> load_some(const S *p, int64_t count) {
    return Whole ? load(p) : load_first(p, count);
  }

  template <int Pixels, bool Whole>
  KERNELDNA_INLINE void run_vector(int64_t row, int64_t column, int64_t c, int64_t count) {
    const Image &source = conv_.source;
    const int64_t step = conv_.source_step[1] * source.column_stride;
    const S *in = static_cast<const S *>(source.data) + sample_ * source.batch_stride +
                  row * conv_.source_step[0] * source.row_stride + column * step + first_ + c;
    Vec<T> sums[Pixels] = {};
    for (int64_t k = 0; k < reached_count_; ++k) {
      const Vec<T> factor = load(reached_[k].factors + c);
      const S *pixel = in + reached_[k].offset;
#pragma GCC unroll 8
      for (int p = 0; p < Pixels; ++p)
        sums[p] += factor * load_some<Whole>(pixel + p * step, count);
    }

    const Vec<T> scale = scales(conv_.out_scale, c, count);
    const Vec<T> shift = conv_.bias.data ? scales(conv_.bias, c, count) : Vec<T>{};
    auto at = [&](const Image &image) {
      return static_cast<S *>(image.data) + sample_ * image.batch_stride +
             (conv_.target_origin[0] + row * conv_.target_step[0]) * image.row_stride +
             (conv_.target_origin[1] + column * conv_.target_step[1]) * image.column_stride + first_ + c;
    };
    S *out = at(conv_.target);
    const int64_t out_step = conv_.target_step[1] * conv_.target.column_stride;
#pragma GCC unroll 8
    for (int p = 0; p < Pixels; ++p)
      store_first(out + p * out_step, sums[p] * scale + shift, count);
    if (!conv_.partner)
      return;
    const S *partner = at(*conv_.partner);
    const int64_t partner_step = conv_.target_step[1] * conv_.partner->column_stride;
    Vec<T> dot{};
#pragma GCC unroll 8
    for (int p = 0; p < Pixels; ++p)
      dot += sums[p] * load_some<Whole>(partner + p * partner_step, count);
    store(row_sums_ + c, load(row_sums_ + c) + dot);
  }

  const ConvParams &conv_;
  int64_t part_, inner_begin_, inner_end_;
  T *factors_ = nullptr;
  T *sums_ = nullptr, *row_sums_ = nullptr; // of products with the partner, of the sample and of the row at hand
  Reached *reached_ = nullptr;
  int64_t sample_ = 0, first_ = 0, channels_ = 0, reached_count_ = 0;
};

template <class S, class T> void depthwise_nhwc(const ConvParams &conv, int64_t begin, int64_t end) {
  DepthwiseNhwc<S, T>(conv).run(begin, end);
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
