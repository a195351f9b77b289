// The weight gradient as a product of dy and x, in any layout. A unit of work is a block of filters by a part of the
// input channels; it walks over all samples and keeps everything that it adds up to itself, so that the order of every
// sum is fixed. No chain of additions is long: the pixels of a band are one, the bands of a run another; a run is then
// finished, and runs add up to the gradient.
//
// The pixels are the reduction here: dy is the operand read in place, x is transposed so that channels are adjacent,
// into a zero-padded band of rows in which every tap is just another offset.
#pragma once

#include "../tuning.h"
#include "conv_params.h"
#include "microkernel.h"
#include "scratch.h"
#include "taps.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

template <class S, class T> class GemmWeightGrad {
public:
  explicit GemmWeightGrad(const WeightGradParams &grad) : grad_(grad) {
    const int64_t vectors = (grad.in_channels + lanes - 1) / lanes;
    channel_blocks_ = (vectors + kPanelVectors - 1) / kPanelVectors;
    block_ = (vectors + channel_blocks_ - 1) / channel_blocks_ * lanes;
    out_rows_ = ((grad.out_channels + grad.out_blocks - 1) / grad.out_blocks + kRows - 1) / kRows * kRows;

    const TapExtent extent = extent_of(grad.taps, grad.tap_count);
    first_row_ = extent.first_row;
    first_column_ = extent.first_column;
    span_rows_ = extent.rows();
    band_width_ = (grad.grad.width - 1) * grad.source_step[1] + extent.columns();
    band_rows_ = kBandPixels / grad.grad.width;
    band_rows_ = band_rows_ < 1 ? 1 : band_rows_ > grad.grad.height ? grad.grad.height : band_rows_;
    const int64_t band_pixels = band_rows_ * grad.grad.width;
    const int64_t band = ((band_rows_ - 1) * grad.source_step[0] + span_rows_) * band_width_ * block_;
    products_size_ = grad.tap_count * out_rows_ * block_;
    const int64_t products = products_size_, parents = grad.kernels ? grad.kernels : 1;

    thread_scratch().lay_out([&](ScratchParts &parts) {
      parts(band_, band + lanes * block_); // slack: whole blocks of pixels are transposed
      parts(products_, products);
      parts(weight_, parents * products);
      parts(weight_grad_, parents * products);
      parts(filter_sums_, (out_rows_ + lanes) * lanes); // slack: whole squares are summed
      parts(tap_sums_, (grad.tap_count + lanes) * lanes);
      parts(kernel_sums_, (grad.kernels ? grad.kernels + lanes : 0) * lanes);
      parts(channel_sums_, block_);
      parts(early_scale_, block_);
      parts(late_scale_, block_);
      parts(converted_, kConvert ? out_rows_ * band_pixels : 0);
      parts(grad_offset_, band_pixels);
      parts(band_offset_, band_pixels);
    });
    for (int64_t r = 0, p = 0; r < band_rows_; ++r)
      for (int64_t q = 0; q < grad.grad.width; ++q, ++p) {
        grad_offset_[p] = kConvert ? p : r * grad.grad.row_stride + q * grad.grad.column_stride;
        band_offset_[p] = (r * grad.source_step[0] * band_width_ + q * grad.source_step[1]) * block_;
      }
    grad_row_ = kConvert ? band_pixels : grad.grad.channel_stride;
    transpose_products_ = taps_adjacent() && grad.tap_count > 1 && grad.tap_count <= lanes && !grad.channel_partial &&
                          (grad.batch == 1 || !grad.per_sample) && !grad.kernels;
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit)
      run_unit(unit);
  }

private:
  static constexpr int lanes = kLanes<T>;
  static constexpr bool kConvert = sizeof(S) != sizeof(T); // dy of a half dtype is converted band by band
  static constexpr int64_t kRunBands = 64;

  void run_unit(int64_t unit) {
    unit_ = unit;
    part_ = unit % grad_.in_split;
    out_block_ = unit / grad_.in_split % grad_.out_blocks;
    group_ = unit / grad_.in_split / grad_.out_blocks;
    row_begin_ = out_block_ * out_rows_;
    rows_ = grad_.out_channels - row_begin_ < out_rows_ ? grad_.out_channels - row_begin_ : out_rows_;
    if (rows_ <= 0)
      return;
    const int64_t block_begin = part_ * channel_blocks_ / grad_.in_split;
    const int64_t block_end = (part_ + 1) * channel_blocks_ / grad_.in_split;
    for (int64_t b = block_begin; b < block_end; ++b) {
      channel_begin_ = b * block_;
      channels_ = grad_.in_channels - channel_begin_ < block_ ? grad_.in_channels - channel_begin_ : block_;
      if (channels_ > 0)
        run_block();
    }
  }

  void run_block() {
    const int64_t parents = grad_.kernels ? grad_.kernels : 1;
    if (grad_.batch == 0)
      clear(weight_grad_, parents * products_size_);
    if (!transpose_products_)
      for (int64_t k = 0; k < parents; ++k)
        transpose_weight(static_cast<const T *>(grad_.weight) + k * grad_.weight_kernel, weight_ + k * products_size_);
    first_run_ = true;
    bands_ = 0;
    for (int64_t sample = 0; sample < grad_.batch; ++sample) {
      set_scales(sample);
      for (int64_t row = 0; row < grad_.grad.height; row += band_rows_) {
        const int64_t rows = grad_.grad.height - row < band_rows_ ? grad_.grad.height - row : band_rows_;
        fill_band(sample, row, rows);
        const bool last = row + rows == grad_.grad.height && (grad_.per_sample || sample + 1 == grad_.batch);
        done_ = last || bands_ + 1 == kRunBands;
        if (done_)
          clear_sums();
        multiply_band(sample, row, rows);
        ++bands_;
        if (done_) {
          add_sums(sample);
          first_run_ = false;
          bands_ = 0;
        }
      }
    }
    if (grad_.weight_grad && (!transpose_products_ || grad_.batch == 0))
      for (int64_t k = 0; k < parents; ++k)
        put_weight_grad(static_cast<T *>(grad_.weight_grad) + k * grad_.weight_kernel,
                        weight_grad_ + k * products_size_);
  }

  // Taps adjacent in memory, and channels adjacent behind them: what nn.Conv2d's weight is.
  bool taps_adjacent() const {
    bool adjacent = grad_.weight_channel == grad_.tap_count;
    for (int64_t t = 0; t < grad_.tap_count; ++t)
      adjacent = adjacent && grad_.taps[t].weight == t;
    return adjacent;
  }

  int64_t weight_offset() const {
    return (group_ * grad_.out_channels + row_begin_) * grad_.weight_out + channel_begin_ * grad_.weight_channel;
  }

  // The block of a weight, as [tap][filter][channel].
  void transpose_weight(const T *weight, T *to) {
    weight += weight_offset();
    const bool adjacent = grad_.tap_count > 1 && taps_adjacent();
    if (channels_ < block_) // what stands behind the last channel is multiplied with zeros, and must be finite
      clear(to, products_size_);
    for (int64_t m = 0; m < rows_; ++m, weight += grad_.weight_out) {
      T *out = to + m * block_;
      if (adjacent) {
        transpose_to<T, T>(out, out_rows_ * block_, weight, grad_.tap_count, channels_, grad_.tap_count);
        continue;
      }
      for (int64_t t = 0; t < grad_.tap_count; ++t, out += out_rows_ * block_) {
        const T *in = weight + grad_.taps[t].weight;
        if (grad_.weight_channel == 1)
          std::memcpy(out, in, channels_ * sizeof(T));
        else
          for (int64_t i = 0; i < channels_; ++i)
            out[i] = in[i * grad_.weight_channel];
      }
    }
  }

  void put_weight_grad(T *weight_grad, const T *from) {
    weight_grad += weight_offset();
    const bool adjacent = grad_.tap_count > 1 && taps_adjacent();
    for (int64_t m = 0; m < rows_; ++m, weight_grad += grad_.weight_out) {
      const T *in = from + m * block_;
      int64_t i = 0;
      if (adjacent && grad_.tap_count <= lanes)
        for (; i + lanes <= channels_; i += lanes) {
          Vec<T> square[lanes];
          for (int t = 0; t < lanes; ++t)
            square[t] = t < grad_.tap_count ? load(in + t * out_rows_ * block_ + i) : Vec<T>{};
          transpose<T>(square);
          for (int c = 0; c < lanes; ++c)
            store_first(weight_grad + (i + c) * grad_.tap_count, square[c], grad_.tap_count);
        }
      for (int64_t t = 0; t < grad_.tap_count; ++t, in += out_rows_ * block_) {
        T *out = weight_grad + grad_.taps[t].weight;
        if (grad_.weight_channel == 1)
          std::memcpy(out, in, channels_ * sizeof(T));
        else
          for (int64_t c = i; c < channels_; ++c)
            out[c * grad_.weight_channel] = in[c];
      }
    }
  }

  // Where the products are finished seldom, they are transposed into the order of the weight, instead of the weight and
  // then its gradient: lane t of a vector is tap t.
  void finish_transposed(int64_t sample, int64_t begin, int64_t end) {
    const T *out_scale = static_cast<const T *>(grad_.out_scale.data) + sample * grad_.out_scale.batch_stride +
                         group_ * grad_.out_channels + row_begin_;
    const T *tap_scale = static_cast<const T *>(grad_.tap_scale.data) + sample * grad_.tap_scale.batch_stride;
    const int64_t taps = grad_.tap_count;
    Vec<T> tap_scales{}, tap_sums{};
    for (int64_t t = 0; t < taps; ++t)
      tap_scales[t] = tap_scale[grad_.taps[t].scale];
    for (int64_t m = begin; m < end; ++m) {
      const T *in = products_ + m * block_;
      const T *weight = static_cast<const T *>(grad_.weight) + weight_offset() + m * grad_.weight_out;
      T *weight_grad =
          grad_.weight_grad ? static_cast<T *>(grad_.weight_grad) + weight_offset() + m * grad_.weight_out : nullptr;
      const Vec<T> scales = splat(out_scale[m]) * tap_scales;
      Vec<T> sums[2] = {}; // two chains keep the adder busy
      for (int64_t i = 0; i < channels_; i += lanes) {
        Vec<T> square[lanes];
        for (int t = 0; t < lanes; ++t)
          square[t] = t < taps ? load(in + t * out_rows_ * block_ + i) : Vec<T>{};
        transpose<T>(square);
        for (int c = 0; c < lanes && i + c < channels_; ++c) {
          sums[c & 1] += square[c] * load_first(weight + (i + c) * taps, taps);
          if (!weight_grad)
            continue;
          T *out = weight_grad + (i + c) * taps;
          store_first(out, square[c] * scales + (first_run_ ? Vec<T>{} : load_first(out, taps)), taps);
        }
      }
      store(filter_sums_ + m * lanes, (sums[0] + sums[1]) * tap_scales);
      tap_sums += (sums[0] + sums[1]) * splat(out_scale[m]);
    }
    for (int64_t t = 0; t < taps; ++t)
      tap_sums_[t * lanes] += tap_sums[t];
  }

  // Of a mixture the products of a sample go to each parent's gradient, by its share, and meet each parent.
  void finish_mixture(int64_t sample, int64_t begin, int64_t end) {
    const T *shares = static_cast<const T *>(grad_.mix.data) + sample * grad_.mix.batch_stride;
    const T *out_scale = static_cast<const T *>(grad_.out_scale.data) + sample * grad_.out_scale.batch_stride +
                         group_ * grad_.out_channels + row_begin_;
    const T *tap_scale = static_cast<const T *>(grad_.tap_scale.data) + sample * grad_.tap_scale.batch_stride;
    const int64_t kernels = grad_.kernels, vectors = block_ / lanes;
    for (int64_t t = 0; t < grad_.tap_count; ++t) {
      const Vec<T> tap = splat(tap_scale[grad_.taps[t].scale]);
      Vec<T> tap_sum = load(tap_sums_ + t * lanes);
      for (int64_t m = begin; m < end; ++m) {
        const int64_t at = (t * out_rows_ + m) * block_;
        const Vec<T> scale = splat(out_scale[m]) * tap;
        Vec<T> products[kPanelVectors], mixed[kPanelVectors], dot{};
        for (int v = 0; v < kPanelVectors; ++v) {
          products[v] = v < vectors ? load(products_ + at + v * lanes) : Vec<T>{};
          mixed[v] = Vec<T>{};
        }
        for (int64_t k = 0; k < kernels; ++k) {
          const Vec<T> share = splat(shares[k]);
          const T *weight = weight_ + k * products_size_ + at;
          T *weight_grad = weight_grad_ + k * products_size_ + at;
          Vec<T> of_parent{};
          for (int v = 0; v < kPanelVectors; ++v) {
            if (v >= vectors)
              break;
            const Vec<T> parent = load(weight + v * lanes), late = load(late_scale_ + v * lanes);
            const Vec<T> scaled = products[v] * late;
            of_parent += scaled * parent;
            mixed[v] += parent * share;
            const Vec<T> before = first_run_ ? Vec<T>{} : load(weight_grad + v * lanes);
            store(weight_grad + v * lanes, before + scaled * (scale * share));
          }
          store(kernel_sums_ + k * lanes, load(kernel_sums_ + k * lanes) + of_parent * scale);
          dot += of_parent * share;
        }
        for (int64_t v = 0; v < vectors; ++v)
          store(channel_sums_ + v * lanes, load(channel_sums_ + v * lanes) + products[v] * mixed[v] * scale);
        T *filter_sum = filter_sums_ + m * lanes;
        store(filter_sum, load(filter_sum) + dot * tap);
        tap_sum += dot * splat(out_scale[m]);
      }
      store(tap_sums_ + t * lanes, tap_sum);
    }
  }

  // c is a factor of the band, so that whole batches can be added up before the products are finished; but where its
  // own gradient is wanted too, which must not contain it, of the finished products.
  void set_scales(int64_t sample) {
    const T *scale = static_cast<const T *>(grad_.in_scale.data) + sample * grad_.in_scale.batch_stride +
                     group_ * grad_.in_channels + channel_begin_;
    for (int64_t i = 0; i < block_; ++i) {
      const T factor = i < channels_ ? scale[i] : T(0);
      early_scale_[i] = grad_.channel_partial ? T(1) : factor;
      late_scale_[i] = grad_.channel_partial ? factor : T(1);
    }
  }

  // The rows of x that lattice rows [row, row + rows) reach, times the early scale, as [row][column][channel], zero
  // outside x.
  void fill_band(int64_t sample, int64_t row, int64_t rows) {
    const Image &source = grad_.source;
    const bool from_channels = source.column_stride != 1 && source.channel_stride == 1;
    const int64_t count = (rows - 1) * grad_.source_step[0] + span_rows_;
    const S *pixels = static_cast<const S *>(source.data) + sample * source.batch_stride +
                      (group_ * grad_.in_channels + channel_begin_) * source.channel_stride;
    int64_t begin = first_column_ < 0 ? -first_column_ : 0;
    int64_t end = source.width - first_column_ < band_width_ ? source.width - first_column_ : band_width_;
    begin = begin < band_width_ ? begin : band_width_;
    end = end > begin ? end : begin;
    for (int64_t h = 0; h < count; ++h) {
      T *out = band_ + h * band_width_ * block_;
      const int64_t source_row = row * grad_.source_step[0] + first_row_ + h;
      if (source_row < 0 || source_row >= source.height) {
        clear(out, band_width_ * block_);
        continue;
      }
      clear(out, begin * block_);
      const S *in = pixels + source_row * source.row_stride + (begin + first_column_) * source.column_stride;
      if (from_channels)
        scale_channels(out + begin * block_, in, end - begin);
      else
        transpose_row(out + begin * block_, in, end - begin);
      clear(out + end * block_, (band_width_ - end) * block_);
    }
  }

  static void clear(T *out, int64_t count) { // a multiple of the lanes
    for (int64_t j = 0; j < count; j += lanes)
      store(out + j, Vec<T>{});
  }

  void scale_channels(T *out, const S *in, int64_t count) {
    for (int64_t i = 0; i < block_; i += lanes) {
      const int64_t width = channels_ - i < lanes ? (channels_ > i ? channels_ - i : 0) : lanes;
      const Vec<T> factor = load(early_scale_ + i);
      for (int64_t q = 0; q < count; ++q)
        store(out + q * block_ + i, load_first(in + q * grad_.source.column_stride + i, width) * factor);
    }
  }

  void transpose_row(T *out, const S *in, int64_t count) {
    for (int64_t i = 0; i < block_; i += lanes)
      for (int64_t q = 0; q < count; q += lanes) {
        const int64_t pixels = count - q < lanes ? count - q : lanes;
        Vec<T> square[lanes];
        for (int c = 0; c < lanes; ++c)
          square[c] = i + c < channels_
                          ? load_masked(in + (i + c) * grad_.source.channel_stride + q * grad_.source.column_stride,
                                        (1u << pixels) - 1, grad_.source.column_stride) *
                                splat(early_scale_[i + c])
                          : Vec<T>{};
        transpose<T>(square);
        for (int64_t p = 0; p < pixels; ++p)
          store(out + (q + p) * block_ + i, square[p]);
      }
  }

  const T *grad_band(int64_t sample, int64_t row, int64_t rows) {
    const Image &image = grad_.grad;
    const S *in = static_cast<const S *>(image.data) + sample * image.batch_stride +
                  (group_ * grad_.out_channels + row_begin_) * image.channel_stride + row * image.row_stride;
    if constexpr (kConvert) {
      for (int64_t m = 0; m < rows_; ++m)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t q = 0; q < image.width; q += lanes) {
            const int64_t pixels = image.width - q < lanes ? image.width - q : lanes;
            store_first(converted_ + m * grad_row_ + r * image.width + q,
                        load_masked(in + m * image.channel_stride + r * image.row_stride + q * image.column_stride,
                                    (1u << pixels) - 1, image.column_stride),
                        pixels);
          }
      return converted_;
    } else {
      return in;
    }
  }

  void multiply_band(int64_t sample, int64_t row, int64_t rows) {
    const T *a = grad_band(sample, row, rows);
    const int64_t count = rows * grad_.grad.width;
    for (int64_t m = 0; m < rows_; m += kRows) {
      const int block_rows = rows_ - m < kRows ? int(rows_ - m) : kRows;
      for (int64_t t = 0; t < grad_.tap_count; ++t) {
        const T *b =
            band_ + ((grad_.taps[t].row - first_row_) * band_width_ + grad_.taps[t].column - first_column_) * block_;
        with_block_size(block_rows, int(block_ / lanes),
                        [&]<int MR, int NV>() { multiply_one<MR, NV>(a + m * grad_row_, b, count, sample, t, m); });
      }
      if (done_ && transpose_products_)
        finish_transposed(sample, m, m + block_rows);
      if (done_ && grad_.kernels)
        finish_mixture(sample, m, m + block_rows);
    }
  }

  template <int MR, int NV>
  __attribute__((noinline)) void multiply_one(const T *a, const T *b, int64_t count, int64_t sample, int64_t t,
                                              int64_t m) {
    const int64_t at = (t * out_rows_ + m) * block_;
    Vec<T> sums[MR][NV] = {};
    multiply<MR, NV>(sums, a, grad_row_, grad_offset_, b, band_offset_, count < kBandPixels ? count : kBandPixels);
    if (count > kBandPixels) {
      Vec<T> rest[MR][NV] = {}; // in memory, where the sums themselves stay in registers
      multiply_rest<MR, NV>(rest, a, b, count);
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v)
          sums[r][v] += rest[r][v];
    }
    if (bands_ > 0)
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v)
          sums[r][v] += load(products_ + at + r * block_ + v * lanes);
    if (!done_ || transpose_products_ || grad_.kernels) {
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v)
          store(products_ + at + r * block_ + v * lanes, sums[r][v]);
      return;
    }
    const T tap_scale =
        static_cast<const T *>(grad_.tap_scale.data)[sample * grad_.tap_scale.batch_stride + grad_.taps[t].scale];
    const T *out_scale = static_cast<const T *>(grad_.out_scale.data) + sample * grad_.out_scale.batch_stride +
                         group_ * grad_.out_channels + row_begin_ + m;
    Vec<T> tap_sum = load(tap_sums_ + t * lanes), channel_sums[NV], late_scales[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      channel_sums[v] = load(channel_sums_ + v * lanes);
      late_scales[v] = load(late_scale_ + v * lanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      Vec<T> dot{};
      const Vec<T> scale = splat(out_scale[r] * tap_scale);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        const int64_t place = at + r * block_ + v * lanes;
        const Vec<T> scaled = sums[r][v] * late_scales[v], weight = load(weight_ + place);
        dot += scaled * weight;
        channel_sums[v] += sums[r][v] * weight * scale;
        store(weight_grad_ + place, (first_run_ ? Vec<T>{} : load(weight_grad_ + place)) + scaled * scale);
      }
      T *filter_sum = filter_sums_ + (m + r) * lanes;
      store(filter_sum, load(filter_sum) + dot * splat(tap_scale));
      tap_sum += dot * splat(out_scale[r]);
    }
    store(tap_sums_ + t * lanes, tap_sum);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v)
      store(channel_sums_ + v * lanes, channel_sums[v]);
  }

  // The pixels of a row that is longer than a band ought to be.
  template <int MR, int NV>
  __attribute__((noinline)) void multiply_rest(Vec<T> (&sums)[MR][NV], const T *a, const T *b, int64_t count) const {
    for (int64_t begin = kBandPixels; begin < count; begin += kBandPixels) {
      Vec<T> chain[MR][NV] = {};
      multiply<MR, NV>(chain, a, grad_row_, grad_offset_ + begin, b, band_offset_ + begin,
                       count - begin < kBandPixels ? count - begin : kBandPixels);
      for (int r = 0; r < MR; ++r)
        for (int v = 0; v < NV; ++v)
          sums[r][v] += chain[r][v];
    }
  }

  void clear_sums() {
    clear(filter_sums_, (out_rows_ + lanes) * lanes);
    clear(tap_sums_, (grad_.tap_count + lanes) * lanes);
    clear(kernel_sums_, (grad_.kernels ? grad_.kernels + lanes : 0) * lanes);
    clear(channel_sums_, block_);
  }

  void add_sums(int64_t sample) {
    const int64_t batch = grad_.per_sample ? grad_.batch : 1, slot = grad_.per_sample ? sample : 0;
    if (grad_.filter_partial)
      add_sums_of_rows(grad_.filter_partial + (part_ * batch + slot) * grad_.groups * grad_.out_channels +
                           group_ * grad_.out_channels + row_begin_,
                       filter_sums_, rows_);
    if (grad_.channel_partial) {
      double *out = grad_.channel_partial + ((out_block_ * batch + slot) * grad_.groups + group_) * grad_.in_channels +
                    channel_begin_;
      for (int64_t i = 0; i < channels_; ++i)
        out[i] += channel_sums_[i];
    }
    if (grad_.tap_partial)
      add_sums_of_rows(grad_.tap_partial + (unit_ * batch + slot) * grad_.tap_count, tap_sums_, grad_.tap_count);
    if (grad_.kernel_partial)
      add_sums_of_rows(grad_.kernel_partial + (unit_ * batch + slot) * grad_.kernels, kernel_sums_, grad_.kernels);
  }

  // out[j] += the sum of vector j, for `count` vectors and whole squares of memory.
  static void add_sums_of_rows(double *out, const T *rows, int64_t count) {
    for (int64_t m = 0; m < count; m += lanes) {
      const Vec<T> sums = sums_of_rows(rows + m * lanes);
      for (int64_t j = 0; j < lanes && m + j < count; ++j)
        out[m + j] += sums[j];
    }
  }

  // Lane j: the sum of vector j of `lanes` vectors.
  static Vec<T> sums_of_rows(const T *rows) {
    Vec<T> square[lanes];
    for (int j = 0; j < lanes; ++j)
      square[j] = load(rows + j * lanes);
    transpose<T>(square);
    Vec<T> sums = square[0];
    for (int j = 1; j < lanes; ++j)
      sums += square[j];
    return sums;
  }

  const WeightGradParams &grad_;
  int64_t channel_blocks_, block_, out_rows_, products_size_;
  bool transpose_products_;              // instead of the weight and its gradient
  bool first_run_ = true, done_ = false; // the run is the first; the band at hand is its last
  int64_t bands_ = 0;                    // of the run, multiplied before the one at hand
  int64_t first_row_, first_column_, span_rows_, band_width_, band_rows_, grad_row_;
  T *band_ = nullptr, *products_ = nullptr, *weight_ = nullptr, *weight_grad_ = nullptr, *converted_ = nullptr;
  T *filter_sums_ = nullptr, *tap_sums_ = nullptr, *channel_sums_ = nullptr, *kernel_sums_ = nullptr;
  T *early_scale_ = nullptr, *late_scale_ = nullptr; // factors of the channels of a block
  int64_t *grad_offset_ = nullptr, *band_offset_ = nullptr;
  int64_t unit_ = 0, part_ = 0, out_block_ = 0, group_ = 0, row_begin_ = 0, rows_ = 0, channel_begin_ = 0,
          channels_ = 0;
};

template <class S, class T> void gemm_weight_grad(const WeightGradParams &grad, int64_t begin, int64_t end) {
  GemmWeightGrad<S, T>(grad).run(begin, end);
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
