// Depthwise convolution, with or without a multiplier: groups of one channel on one side. There is no matrix product in
// it, and nothing to win but memory traffic, so the pixels are read directly.
//
// One plane at a time, copied into a zero-padded plane whose columns are sorted by their remainder modulo the stride,
// so that every tap reads whole vectors. Adjacent channels have a kernel of their own: depthwise_nhwc.h.
#pragma once

#include "conv_params.h"
#include "scratch.h"
#include "simd.h"
#include "taps.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// A zero-padded copy of the part of a plane that a lattice reaches through its taps.
template <class S, class T> class PaddedPlane {
public:
  PaddedPlane(const Image &source, const Tap *taps, int64_t tap_count, const int64_t *step, int64_t lattice_height,
              int64_t lattice_width)
      : source_(source), step_(step[1]) {
    const TapExtent extent = extent_of(taps, tap_count);
    first_row_ = extent.first_row;
    first_column_ = extent.first_column;
    height_ = (lattice_height - 1) * step[0] + extent.rows();
    const int64_t width = (lattice_width - 1) * step_ + extent.columns();
    // Readers take whole vectors, from any column on.
    phase_ = ((width + step_ - 1) / step_ + 2 * lanes - 1) / lanes * lanes;
    row_step_ = step[0] * step_ * phase_;
  }

  int64_t size() const { return height_ * step_ * phase_; }
  int64_t row_step() const { return row_step_; } // from one lattice row to the next

  // Where lattice pixel (0, 0) reads through a tap.
  int64_t offset(const Tap &tap) const {
    const int64_t column = tap.column - first_column_;
    return (tap.row - first_row_) * step_ * phase_ + column % step_ * phase_ + column / step_;
  }

  // The lanes of a vector, beginning at lattice pixel (row, column), that read inside the source through a tap.
  uint32_t inside(const Tap &tap, int64_t row, int64_t column, const int64_t *step) const {
    const int64_t source_row = row * step[0] + tap.row;
    if (source_row < 0 || source_row >= source_.height)
      return 0;
    return inside_row(column * step_ + tap.column);
  }

  int64_t mask_count() const { return step_ * phase_ / lanes; }
  void fill_masks(uint32_t *masks) const {
    for (int64_t remainder = 0; remainder < step_; ++remainder)
      for (int64_t j = 0; j < phase_; j += lanes)
        *masks++ = inside_row(first_column_ + remainder + j * step_);
  }

  void fill(T *plane, const S *pixels, const uint32_t *masks) const {
    for (int64_t h = 0; h < height_; ++h) {
      const int64_t row = first_row_ + h;
      const bool outside = row < 0 || row >= source_.height;
      const uint32_t *mask = masks;
      for (int64_t remainder = 0; remainder < step_; ++remainder)
        for (int64_t j = 0; j < phase_; j += lanes, ++mask, plane += lanes) {
          const int64_t column = first_column_ + remainder + j * step_;
          store(plane, outside || !*mask
                           ? Vec<T>{}
                           : load_masked(pixels + row * source_.row_stride + column * source_.column_stride, *mask,
                                         step_ * source_.column_stride));
        }
    }
  }

private:
  static constexpr int64_t lanes = kLanes<T>;

  uint32_t inside_row(int64_t column) const {
    uint32_t mask = 0;
    for (int lane = 0; lane < lanes; ++lane, column += step_)
      mask |= uint32_t(column >= 0 && column < source_.width) << lane;
    return mask;
  }

  const Image &source_;
  int64_t step_, first_row_, first_column_, height_, phase_, row_step_;
};

// A unit of work is a group of a sample.
template <class S, class T> class DepthwiseNchw {
public:
  explicit DepthwiseNchw(const ConvParams &conv)
      : conv_(conv),
        padded_(conv.source, conv.taps, conv.tap_count, conv.source_step, conv.lattice_height, conv.lattice_width) {
    terms_ = conv.in_channels * conv.tap_count;
    thread_scratch().lay_out([&](ScratchParts &parts) {
      parts(planes_, conv.in_channels * padded_.size());
      parts(factors_, terms_);
      parts(offsets_, terms_);
      parts(masks_, padded_.mask_count());
    });
    padded_.fill_masks(masks_);
    for (int64_t k = 0; k < terms_; ++k)
      offsets_[k] = k / conv.tap_count * padded_.size() + padded_.offset(conv.taps[k % conv.tap_count]);
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t sample = unit / conv_.groups, group = unit % conv_.groups;
      for (int64_t i = 0; i < conv_.in_channels; ++i)
        padded_.fill(planes_ + i * padded_.size(),
                     static_cast<const S *>(conv_.source.data) + sample * conv_.source.batch_stride +
                         (group * conv_.in_channels + i) * conv_.source.channel_stride,
                     masks_);
      for (int64_t o = 0; o < conv_.out_channels; ++o) {
        set_factors(sample, group, o);
        run_plane(sample, group * conv_.out_channels + o);
      }
    }
  }

private:
  static constexpr int64_t lanes = kLanes<T>;
  static constexpr int kBlock = 4;  // vectors that share the broadcast of a factor
  static constexpr int kChain = 16; // blocks whose products with the partner are one chain of additions

  // A vector of target pixels: within one lattice row, the last of the row may be short.
  struct Place {
    int64_t row, column, count;
  };

  T scale_of(const Scale &scale, int64_t sample, int64_t index) const {
    return static_cast<const T *>(scale.data)[sample * scale.batch_stride + index];
  }

  void set_factors(int64_t sample, int64_t group, int64_t o) {
    const T *weight = static_cast<const T *>(conv_.weight) + sample * conv_.weight_sample + group * conv_.weight_group +
                      o * conv_.weight_row;
    finite_ = true;
    for (int64_t k = 0; k < terms_; ++k) {
      const int64_t i = k / conv_.tap_count;
      const Tap &tap = conv_.taps[k % conv_.tap_count];
      factors_[k] = weight[i * conv_.weight_channel + tap.weight] * scale_of(conv_.tap_scale, sample, tap.scale) *
                    scale_of(conv_.in_scale, sample, group * conv_.in_channels + i);
      finite_ = finite_ && factors_[k] - factors_[k] == 0;
    }
  }

  void run_plane(int64_t sample, int64_t channel) {
    const T scale = scale_of(conv_.out_scale, sample, channel);
    const T shift = conv_.bias.data ? scale_of(conv_.bias, sample, channel) : T(0);
    Vec<T> dot{};
    double dots = 0; // of blocks before
    int64_t blocks = 0;
    Place place{0, 0, 0};
    while (place.row < conv_.lattice_height) {
      Place places[kBlock];
      const T *in[kBlock];
      int count = 0;
      for (; count < kBlock && place.row < conv_.lattice_height; ++count) {
        const int64_t left = conv_.lattice_width - place.column;
        place.count = left < lanes ? left : lanes;
        places[count] = place;
        in[count] = planes_ + place.row * padded_.row_step() + place.column;
        place.column += lanes;
        if (place.column >= conv_.lattice_width)
          place = {place.row + 1, 0, 0};
      }
      for (int v = count; v < kBlock; ++v)
        in[v] = in[0];
      Vec<T> sums[kBlock] = {};
      if (finite_)
        for (int64_t k = 0; k < terms_; ++k) {
          const Vec<T> factor = splat(factors_[k]);
#pragma GCC unroll 4
          for (int v = 0; v < kBlock; ++v)
            sums[v] += factor * load(in[v] + offsets_[k]);
        }
      else // padding stays zero under an infinite factor
        for (int64_t k = 0; k < terms_; ++k)
          for (int v = 0; v < count; ++v)
            sums[v] += keep_masked<T>(
                splat(factors_[k]) * load(in[v] + offsets_[k]),
                padded_.inside(conv_.taps[k % conv_.tap_count], places[v].row, places[v].column, conv_.source_step));
      for (int v = 0; v < count; ++v)
        dot += finish(sums[v], places[v], sample, channel, scale, shift);
      if (conv_.partner && ++blocks % kChain == 0) {
        dots += sum_lanes<T>(dot);
        dot = Vec<T>{};
      }
    }
    if (conv_.partner)
      static_cast<T *>(conv_.partial)[sample * conv_.groups * conv_.out_channels + channel] =
          T(dots + sum_lanes<T>(dot));
  }

  // Stores the vector, and returns its products with the partner.
  Vec<T> finish(Vec<T> sum, const Place &place, int64_t sample, int64_t channel, T scale, T shift) const {
    auto at = [&](const Image &image) {
      return static_cast<S *>(image.data) + sample * image.batch_stride + channel * image.channel_stride +
             (conv_.target_origin[0] + place.row * conv_.target_step[0]) * image.row_stride +
             (conv_.target_origin[1] + place.column * conv_.target_step[1]) * image.column_stride;
    };
    const int64_t step = conv_.target_step[1] * conv_.target.column_stride;
    const Vec<T> value = sum * splat(scale) + splat(shift);
    S *out = at(conv_.target);
    if (step == 1)
      store_first(out, value, place.count);
    else
      for (int64_t j = 0; j < place.count; ++j)
        put(out + j * step, value[j]);
    if (!conv_.partner)
      return Vec<T>{};
    // Lanes behind the row hold sums of other pixels, of which a product with inf would make NaN.
    const uint32_t mask = (1u << place.count) - 1;
    return keep_masked<T>(sum, mask) * load_masked(static_cast<const S *>(at(*conv_.partner)), mask,
                                                   conv_.target_step[1] * conv_.partner->column_stride);
  }

  const ConvParams &conv_;
  PaddedPlane<S, T> padded_;
  int64_t terms_;
  T *planes_ = nullptr, *factors_ = nullptr;
  int64_t *offsets_ = nullptr;
  uint32_t *masks_ = nullptr;
  bool finite_ = true;
};

template <class S, class T> void depthwise_nchw(const ConvParams &conv, int64_t begin, int64_t end) {
  DepthwiseNchw<S, T>(conv).run(begin, end);
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
