// Depthwise convolution, with or without a multiplier: groups of one channel on one side. There is no matrix product in
// it, and nothing to win but memory traffic, so the pixels are read directly.
//
// Adjacent pixels (NCHW): one plane at a time, copied into a zero-padded plane whose columns are sorted by their
// remainder modulo the stride, so that every tap reads whole vectors. Adjacent channels (channels_last, one channel per
// group on both sides): a vector of groups at a time.
#pragma once

#include "conv_params.h"
#include "scratch.h"
#include "simd.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// A zero-padded copy of the part of a plane that a lattice reaches through its taps.
template <class S, class T> class PaddedPlane {
public:
  PaddedPlane(const Image &source, const Tap *taps, int64_t tap_count, const int64_t *step, int64_t lattice_height,
              int64_t lattice_width)
      : source_(source), step_(step[1]) {
    int64_t last_row = first_row_, last_column = first_column_;
    for (int64_t t = 0; t < tap_count; ++t) {
      first_row_ = t == 0 || taps[t].row < first_row_ ? taps[t].row : first_row_;
      last_row = t == 0 || taps[t].row > last_row ? taps[t].row : last_row;
      first_column_ = t == 0 || taps[t].column < first_column_ ? taps[t].column : first_column_;
      last_column = t == 0 || taps[t].column > last_column ? taps[t].column : last_column;
    }
    height_ = (lattice_height - 1) * step[0] + last_row - first_row_ + 1;
    const int64_t width = (lattice_width - 1) * step_ + last_column - first_column_ + 1;
    phase_ = (width + step_ - 1) / step_ + kLanes<T>; // readers and the copy work in whole vectors
    row_step_ = step[0] * step_ * phase_;
  }

  int64_t size() const { return height_ * step_ * phase_ + kLanes<T>; }
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

  void fill(T *plane, const S *pixels) const {
    for (int64_t h = 0; h < height_; ++h)
      for (int64_t remainder = 0; remainder < step_; ++remainder) {
        T *out = plane + (h * step_ + remainder) * phase_;
        const int64_t row = first_row_ + h;
        if (row < 0 || row >= source_.height) {
          for (int64_t j = 0; j < phase_; j += kLanes<T>)
            store(out + j, Vec<T>{});
          continue;
        }
        const S *in = pixels + row * source_.row_stride;
        for (int64_t j = 0; j < phase_; j += kLanes<T>) {
          const int64_t column = first_column_ + remainder + j * step_;
          const uint32_t mask = inside_row(column);
          store(out + j, mask ? load_masked(in + column * source_.column_stride, mask, step_ * source_.column_stride)
                              : Vec<T>{});
        }
      }
  }

private:
  uint32_t inside_row(int64_t column) const {
    uint32_t mask = 0;
    for (int lane = 0; lane < kLanes<T>; ++lane, column += step_)
      mask |= uint32_t(column >= 0 && column < source_.width) << lane;
    return mask;
  }

  const Image &source_;
  int64_t step_, first_row_ = 0, first_column_ = 0, height_, phase_, row_step_;
};

// A unit of work is a group of a sample.
template <class S, class T> void conv_planes(const TileConv &conv, int64_t begin, int64_t end) {
  constexpr int64_t lanes = kLanes<T>;
  const PaddedPlane<S, T> padded(conv.source, conv.taps, conv.tap_count, conv.source_step, conv.lattice_height,
                                 conv.lattice_width);
  const int64_t terms = conv.in_channels * conv.tap_count;
  Scratch &scratch = thread_scratch();
  scratch.reserve(Scratch::bytes_of<T>(conv.in_channels * padded.size()) + Scratch::bytes_of<T>(terms) +
                  Scratch::bytes_of<int64_t>(terms));
  T *planes = scratch.take<T>(conv.in_channels * padded.size());
  T *factors = scratch.take<T>(terms);
  int64_t *offsets = scratch.take<int64_t>(terms);
  for (int64_t k = 0; k < terms; ++k)
    offsets[k] = k / conv.tap_count * padded.size() + padded.offset(conv.taps[k % conv.tap_count]);

  const int64_t step = conv.target_step[1] * conv.target.column_stride;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t sample = unit / conv.groups, group = unit % conv.groups;
    const T *in_scale = static_cast<const T *>(conv.in_scale.data) + sample * conv.in_scale.batch_stride;
    const T *tap_scale = static_cast<const T *>(conv.tap_scale.data) + sample * conv.tap_scale.batch_stride;
    const T *out_scale = static_cast<const T *>(conv.out_scale.data) + sample * conv.out_scale.batch_stride;
    for (int64_t i = 0; i < conv.in_channels; ++i)
      padded.fill(planes + i * padded.size(), static_cast<const S *>(conv.source.data) +
                                                  sample * conv.source.batch_stride +
                                                  (group * conv.in_channels + i) * conv.source.channel_stride);
    for (int64_t o = 0; o < conv.out_channels; ++o) {
      const int64_t channel = group * conv.out_channels + o;
      const T *weight = static_cast<const T *>(conv.weight) + group * conv.weight_group + o * conv.weight_row;
      bool finite = true;
      for (int64_t k = 0; k < terms; ++k) {
        const int64_t i = k / conv.tap_count;
        const Tap &tap = conv.taps[k % conv.tap_count];
        factors[k] = weight[i * conv.weight_channel + tap.weight] * tap_scale[tap.scale] *
                     in_scale[group * conv.in_channels + i];
        finite = finite && factors[k] - factors[k] == 0;
      }
      const Vec<T> scale = splat(out_scale[channel]);
      const Vec<T> shift = splat(conv.bias ? static_cast<const T *>(conv.bias)[channel] : T(0));
      Vec<T> dot{};
      for (int64_t r = 0; r < conv.lattice_height; ++r) {
        const int64_t row = conv.target_origin[0] + r * conv.target_step[0];
        auto row_of = [&](const Image &image) {
          return static_cast<S *>(image.data) + sample * image.batch_stride + channel * image.channel_stride +
                 row * image.row_stride + conv.target_origin[1] * image.column_stride;
        };
        S *out = row_of(conv.target);
        const S *partner = conv.partner ? row_of(*conv.partner) : nullptr;
        constexpr int kBlock = 4; // vectors that share the broadcast of a factor
        for (int64_t q = 0; q < conv.lattice_width; q += kBlock * lanes) {
          Vec<T> sums[kBlock] = {};
          const int64_t left = conv.lattice_width - q;
          const int vectors = left >= kBlock * lanes ? kBlock : int((left + lanes - 1) / lanes);
          const T *in = planes + r * padded.row_step() + q;
          if (!finite) // padding stays zero under an infinite factor
            for (int v = 0; v < vectors; ++v)
              for (int64_t k = 0; k < terms; ++k)
                sums[v] +=
                    keep_masked<T>(splat(factors[k]) * load(in + offsets[k] + v * lanes),
                                   padded.inside(conv.taps[k % conv.tap_count], r, q + v * lanes, conv.source_step));
          else if (vectors == kBlock)
            for (int64_t k = 0; k < terms; ++k)
              for (int v = 0; v < kBlock; ++v)
                sums[v] += splat(factors[k]) * load(in + offsets[k] + v * lanes);
          else
            for (int v = 0; v < vectors; ++v)
              for (int64_t k = 0; k < terms; ++k)
                sums[v] += splat(factors[k]) * load(in + offsets[k] + v * lanes);
          for (int v = 0; v < vectors; ++v) {
            const int64_t at = q + v * lanes, count = left - v * lanes < lanes ? left - v * lanes : lanes;
            const Vec<T> value = sums[v] * scale + shift;
            if (step == 1)
              store_first(out + at, value, count);
            else
              for (int64_t j = 0; j < count; ++j)
                put(out + (at + j) * step, value[j]);
            if (partner) {
              const int64_t partner_step = conv.target_step[1] * conv.partner->column_stride;
              const uint32_t mask = (1u << count) - 1;
              // Lanes behind the row hold sums of other pixels, of which a masked product with inf would make NaN.
              for (int64_t j = count; j < lanes; ++j)
                sums[v][j] = 0;
              dot += sums[v] * load_masked(partner + at * partner_step, mask, partner_step);
            }
          }
        }
      }
      if (conv.partner)
        static_cast<T *>(conv.partial)[sample * conv.groups * conv.out_channels + channel] = sum_lanes<T>(dot);
    }
  }
}

// One channel per group on both sides, adjacent in memory. A unit of work is a vector of groups of a sample.
template <class S, class T> void conv_planes_channels(const TileConv &conv, int64_t begin, int64_t end) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t blocks = (conv.groups + lanes - 1) / lanes;
  Scratch &scratch = thread_scratch();
  scratch.reserve(Scratch::bytes_of<Vec<T>>(conv.tap_count));
  Vec<T> *factors = scratch.take<Vec<T>>(conv.tap_count);
  const Image &source = conv.source, &target = conv.target;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t sample = unit / blocks, channel = unit % blocks * lanes;
    const int64_t count = conv.groups - channel < lanes ? conv.groups - channel : lanes;
    auto scales = [&](const Scale &scale) {
      return load_first(static_cast<const T *>(scale.data) + sample * scale.batch_stride + channel, count);
    };
    const T *tap_scale = static_cast<const T *>(conv.tap_scale.data) + sample * conv.tap_scale.batch_stride;
    for (int64_t t = 0; t < conv.tap_count; ++t)
      factors[t] = load_masked(static_cast<const T *>(conv.weight) + channel * conv.weight_group + conv.taps[t].weight,
                               (1u << count) - 1, conv.weight_group) *
                   splat(tap_scale[conv.taps[t].scale]) * scales(conv.in_scale);
    const Vec<T> scale = scales(conv.out_scale);
    const Vec<T> shift = conv.bias ? load_first(static_cast<const T *>(conv.bias) + channel, count) : Vec<T>{};
    const S *pixels = static_cast<const S *>(source.data) + sample * source.batch_stride + channel;
    Vec<T> dot{};
    for (int64_t r = 0; r < conv.lattice_height; ++r)
      for (int64_t q = 0; q < conv.lattice_width; ++q) {
        Vec<T> sum{};
        for (int64_t t = 0; t < conv.tap_count; ++t) {
          const int64_t row = r * conv.source_step[0] + conv.taps[t].row;
          const int64_t column = q * conv.source_step[1] + conv.taps[t].column;
          if (row < 0 || row >= source.height || column < 0 || column >= source.width)
            continue;
          sum += factors[t] * load_first(pixels + row * source.row_stride + column * source.column_stride, count);
        }
        const int64_t row = conv.target_origin[0] + r * conv.target_step[0];
        const int64_t column = conv.target_origin[1] + q * conv.target_step[1];
        auto at = [&](const Image &image) {
          return static_cast<S *>(image.data) + sample * image.batch_stride + row * image.row_stride +
                 column * image.column_stride + channel;
        };
        store_first(at(target), sum * scale + shift, count);
        if (conv.partner)
          dot += sum * load_first(static_cast<const S *>(at(*conv.partner)), count);
      }
    if (conv.partner)
      store_first(static_cast<T *>(conv.partial) + sample * conv.groups + channel, dot, count);
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
