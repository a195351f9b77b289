// The weight gradient of a depthwise convolution of adjacent channels (channels_last), one channel per group on both
// sides. The same sums as in depthwise_nchw_weight_grad.h, for a vector of channels at a time: one row of the maps
// after the other, so that memory is read in order.
#pragma once

#include "conv_params.h"
#include "scratch.h"
#include "simd.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// A unit of work is a block of channels.
template <class S, class T> class DepthwiseNhwcWeightGrad {
public:
  explicit DepthwiseNhwcWeightGrad(const WeightGradParams &grad) : grad_(grad) {
    block_ = ((grad.groups + grad.out_blocks - 1) / grad.out_blocks + lanes - 1) / lanes * lanes;
    thread_scratch().lay_out([&](ScratchParts &parts) {
      parts(products_, grad.tap_count * block_);
      parts(weight_, grad.tap_count * block_);
      parts(weight_sums_, grad.tap_count * block_);
      parts(tap_sums_, grad.tap_count * lanes);
      parts(columns_, grad.tap_count);
    });
    const int64_t step = grad.source_step[1];
    for (int64_t t = 0; t < grad.tap_count; ++t) {
      const int64_t first = grad.taps[t].column, last = grad.source.width - 1 - first;
      const int64_t end = last < 0 ? 0 : last / step + 1;
      columns_[t] = {first < 0 ? (-first + step - 1) / step : 0, end < grad.grad.width ? end : grad.grad.width};
    }
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      first_ = unit * block_;
      channels_ = grad_.groups - first_ < block_ ? grad_.groups - first_ : block_;
      if (channels_ <= 0)
        continue;
      start_unit();
      for (int64_t sample = 0; sample < grad_.batch; ++sample) {
        for (int64_t row = 0; row < grad_.grad.height; ++row)
          add_row(sample, row);
        finish_sample(unit, sample);
      }
      if (grad_.weight_grad)
        put_weight_grad();
    }
  }

private:
  static constexpr int64_t lanes = kLanes<T>;
  static constexpr int kTaps = 4; // of one row, that share the load of dy

  // The columns of dy from which a tap reads inside the source.
  struct Columns {
    int64_t begin, end;
  };

  int64_t count_at(int64_t c) const { return channels_ - c < lanes ? channels_ - c : lanes; }

  void start_unit() {
    const T *weight = static_cast<const T *>(grad_.weight) + first_ * grad_.weight_out;
    for (int64_t t = 0; t < grad_.tap_count; ++t)
      for (int64_t c = 0; c < channels_; c += lanes) {
        store(weight_ + t * block_ + c, load_masked(weight + c * grad_.weight_out + grad_.taps[t].weight,
                                                    (1u << count_at(c)) - 1, grad_.weight_out));
        store(weight_sums_ + t * block_ + c, Vec<T>{});
        store(products_ + t * block_ + c, Vec<T>{});
      }
  }

  // products[t][channel] += sum over the row of dy[p] * x[q(p,t)]
  void add_row(int64_t sample, int64_t row) {
    for (int64_t t = 0, count; t < grad_.tap_count; t += count) {
      count = 1;
      while (count < kTaps && t + count < grad_.tap_count && grad_.taps[t + count].row == grad_.taps[t].row)
        ++count;
      const int64_t source_row = row * grad_.source_step[0] + grad_.taps[t].row;
      if (source_row < 0 || source_row >= grad_.source.height)
        continue;
      switch (count) {
      case 1:
        add_taps<1>(sample, row, source_row, t);
        break;
      case 2:
        add_taps<2>(sample, row, source_row, t);
        break;
      case 3:
        add_taps<3>(sample, row, source_row, t);
        break;
      case 4:
        add_taps<4>(sample, row, source_row, t);
        break;
      }
    }
  }

  template <int Taps> void add_taps(int64_t sample, int64_t row, int64_t source_row, int64_t t) {
    const S *dy = static_cast<const S *>(grad_.grad.data) + sample * grad_.grad.batch_stride +
                  row * grad_.grad.row_stride + first_;
    const S *x = static_cast<const S *>(grad_.source.data) + sample * grad_.source.batch_stride +
                 source_row * grad_.source.row_stride + first_;
    int64_t c = 0;
    for (; c + lanes <= channels_; c += lanes)
      add_vector<Taps, true>(dy + c, x + c, t, c, lanes);
    if (c < channels_)
      add_vector<Taps, false>(dy + c, x + c, t, c, channels_ - c);
  }

  template <bool Whole> static Vec<T> load_some(const S *p, int64_t count) {
    return Whole ? load(p) : load_first(p, count);
  }

  template <int Taps, bool Whole>
  KERNELDNA_INLINE void add_vector(const S *dy, const S *x, int64_t t, int64_t c, int64_t count) {
    const int64_t dy_step = grad_.grad.column_stride, x_step = grad_.source_step[1] * grad_.source.column_stride;
    const S *in[Taps];
    Vec<T> even[Taps] = {}, odd[Taps] = {};    // two chains of sums for each tap keep the adder busy
    int64_t begin = 0, end = grad_.grad.width; // where all of these taps read inside the source
    for (int k = 0; k < Taps; ++k) {
      in[k] = x + grad_.taps[t + k].column * grad_.source.column_stride;
      begin = columns_[t + k].begin > begin ? columns_[t + k].begin : begin;
      end = columns_[t + k].end < end ? columns_[t + k].end : end;
    }
    int64_t q = begin;
    for (; q + 2 <= end; q += 2) {
      const Vec<T> dy_even = load_some<Whole>(dy + q * dy_step, count);
      const Vec<T> dy_odd = load_some<Whole>(dy + (q + 1) * dy_step, count);
#pragma GCC unroll 4
      for (int k = 0; k < Taps; ++k) {
        even[k] += dy_even * load_some<Whole>(in[k] + q * x_step, count);
        odd[k] += dy_odd * load_some<Whole>(in[k] + (q + 1) * x_step, count);
      }
    }
    for (int k = 0; k < Taps; ++k) {
      const Columns &columns = columns_[t + k];
      for (int64_t p = columns.begin; p < begin && p < columns.end; ++p)
        even[k] += load_some<Whole>(dy + p * dy_step, count) * load_some<Whole>(in[k] + p * x_step, count);
      for (int64_t p = columns.begin > q ? columns.begin : q; p < columns.end; ++p)
        even[k] += load_some<Whole>(dy + p * dy_step, count) * load_some<Whole>(in[k] + p * x_step, count);
      T *product = products_ + (t + k) * block_ + c;
      store(product, load(product) + (even[k] + odd[k]));
    }
  }

  // Makes the products of a sample into its share of the gradients, and clears them.
  void finish_sample(int64_t unit, int64_t sample) {
    const int64_t slot = grad_.per_sample ? sample : 0, batch = grad_.per_sample ? grad_.batch : 1;
    const T *in_scale = static_cast<const T *>(grad_.in_scale.data) + sample * grad_.in_scale.batch_stride + first_;
    const T *out_scale = static_cast<const T *>(grad_.out_scale.data) + sample * grad_.out_scale.batch_stride + first_;
    const T *tap_scale = static_cast<const T *>(grad_.tap_scale.data) + sample * grad_.tap_scale.batch_stride;
    for (int64_t t = 0; t < grad_.tap_count; ++t)
      store(tap_sums_ + t * lanes, Vec<T>{});
    for (int64_t c = 0; c < channels_; c += lanes) {
      const int64_t count = count_at(c);
      const Vec<T> in = load_first(in_scale + c, count), out = load_first(out_scale + c, count);
      Vec<T> filter_sum{};
      for (int64_t t = 0; t < grad_.tap_count; ++t) {
        const int64_t place = t * block_ + c;
        const Vec<T> scale = splat(tap_scale[grad_.taps[t].scale]);
        const Vec<T> product = load(products_ + place) * in, weighted = product * load(weight_ + place);
        store(weight_sums_ + place, load(weight_sums_ + place) + product * out * scale);
        store(tap_sums_ + t * lanes, load(tap_sums_ + t * lanes) + weighted * out);
        filter_sum += weighted * scale;
        store(products_ + place, Vec<T>{});
      }
      if (grad_.filter_partial) {
        double *sums = grad_.filter_partial + slot * grad_.groups + first_ + c;
        for (int64_t j = 0; j < count; ++j)
          sums[j] += filter_sum[j];
      }
    }
    if (grad_.tap_partial)
      for (int64_t t = 0; t < grad_.tap_count; ++t)
        grad_.tap_partial[(unit * batch + slot) * grad_.tap_count + t] += sum_lanes<T>(load(tap_sums_ + t * lanes));
  }

  void put_weight_grad() {
    T *weight_grad = static_cast<T *>(grad_.weight_grad) + first_ * grad_.weight_out;
    for (int64_t t = 0; t < grad_.tap_count; ++t)
      for (int64_t c = 0; c < channels_; ++c)
        weight_grad[c * grad_.weight_out + grad_.taps[t].weight] = weight_sums_[t * block_ + c];
  }

  const WeightGradParams &grad_;
  int64_t block_;
  T *products_ = nullptr, *weight_ = nullptr, *weight_sums_ = nullptr, *tap_sums_ = nullptr;
  Columns *columns_ = nullptr;
  int64_t first_ = 0, channels_ = 0;
};

template <class S, class T> void depthwise_nhwc_weight_grad(const WeightGradParams &grad, int64_t begin, int64_t end) {
  DepthwiseNhwcWeightGrad<S, T>(grad).run(begin, end);
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
