// The weight gradient of a depthwise convolution. With one input channel per group the products D[n,o,t] = sum_p
// dy[n,o,p] * x[n,i,q(p,t)] are few: a unit of work, a block of groups, goes over all samples and makes each into its
// share of the gradients.
#pragma once

#include "depthwise_nchw.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// products[t] = sum_p grad[p] * x[q(p,t)], from a padded plane.
template <class S, class T>
void plane_products(T *products, const WeightGradParams &grad, const PaddedPlane<S, T> &padded, const T *plane,
                    const S *pixels) {
  constexpr int64_t lanes = kLanes<T>;
  constexpr int kTaps = 4;     // that share the load of dy, and keep the adder busy
  constexpr int kVectors = 32; // or a row of them: the longest chain of additions
  const int64_t in_row = (grad.grad.width + lanes - 1) / lanes, block_rows = in_row < kVectors ? kVectors / in_row : 1;
  for (int64_t t = 0; t < grad.tap_count; t += kTaps) {
    const int count = grad.tap_count - t < kTaps ? int(grad.tap_count - t) : kTaps;
    const T *in[kTaps];
    for (int k = 0; k < kTaps; ++k)
      in[k] = plane + padded.offset(grad.taps[t + (k < count ? k : 0)]);
    Vec<T> sums[kTaps] = {};
    for (int64_t r = 0; r < grad.grad.height;) {
      const int64_t end = r + block_rows < grad.grad.height ? r + block_rows : grad.grad.height;
      Vec<T> chains[kTaps] = {};
      for (; r < end; ++r)
        for (int64_t q = 0; q < grad.grad.width; q += lanes) {
          const int64_t left = grad.grad.width - q < lanes ? grad.grad.width - q : lanes;
          const uint32_t mask = (1u << left) - 1;
          const Vec<T> dy = load_masked(pixels + r * grad.grad.row_stride + q * grad.grad.column_stride, mask,
                                        grad.grad.column_stride);
          for (int k = 0; k < kTaps; ++k) {
            const T *x = in[k] + r * padded.row_step() + q;
            chains[k] += dy * (left == lanes ? load(x) : load_first(x, left));
          }
        }
      for (int k = 0; k < kTaps; ++k)
        sums[k] += chains[k];
    }
    for (int k = 0; k < count; ++k)
      products[t + k] = sum_lanes<T>(sums[k]);
  }
}

template <class S, class T> void depthwise_nchw_weight_grad(const WeightGradParams &grad, int64_t begin, int64_t end) {
  const PaddedPlane<S, T> padded(grad.source, grad.taps, grad.tap_count, grad.source_step, grad.grad.height,
                                 grad.grad.width);
  T *plane = nullptr, *products = nullptr;
  double *weight_sums = nullptr; // over the samples
  uint32_t *masks = nullptr;
  thread_scratch().lay_out([&](ScratchParts &parts) {
    parts(plane, padded.size());
    parts(products, grad.tap_count);
    parts(weight_sums, grad.tap_count);
    parts(masks, padded.mask_count());
  });
  padded.fill_masks(masks);
  const int64_t batch = grad.per_sample ? grad.batch : 1, filters = grad.groups * grad.out_channels;
  const int64_t block = (grad.groups + grad.out_blocks - 1) / grad.out_blocks;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t last = (unit + 1) * block < grad.groups ? (unit + 1) * block : grad.groups;
    for (int64_t group = unit * block; group < last; ++group)
      for (int64_t filter = group * grad.out_channels; filter < (group + 1) * grad.out_channels; ++filter) {
        const T *weight = static_cast<const T *>(grad.weight) + filter * grad.weight_out;
        for (int64_t t = 0; t < grad.tap_count; ++t)
          weight_sums[t] = 0;
        for (int64_t n = 0; n < grad.batch; ++n) {
          padded.fill(plane,
                      static_cast<const S *>(grad.source.data) + n * grad.source.batch_stride +
                          group * grad.source.channel_stride,
                      masks);
          plane_products<S, T>(products, grad, padded, plane,
                               static_cast<const S *>(grad.grad.data) + n * grad.grad.batch_stride +
                                   filter * grad.grad.channel_stride);
          const T in_scale = static_cast<const T *>(grad.in_scale.data)[n * grad.in_scale.batch_stride + group];
          const T out_scale = static_cast<const T *>(grad.out_scale.data)[n * grad.out_scale.batch_stride + filter];
          const T *tap_scale = static_cast<const T *>(grad.tap_scale.data) + n * grad.tap_scale.batch_stride;
          const int64_t slot = grad.per_sample ? n : 0;
          T filter_sum = 0;
          for (int64_t t = 0; t < grad.tap_count; ++t) {
            const Tap &tap = grad.taps[t];
            const T product = products[t] * in_scale, weighted = product * weight[tap.weight];
            weight_sums[t] += product * out_scale * tap_scale[tap.scale];
            filter_sum += weighted * tap_scale[tap.scale];
            if (grad.tap_partial)
              grad.tap_partial[(unit * batch + slot) * grad.tap_count + t] += weighted * out_scale;
          }
          if (grad.filter_partial)
            grad.filter_partial[slot * filters + filter] += filter_sum;
        }
        if (grad.weight_grad)
          for (int64_t t = 0; t < grad.tap_count; ++t)
            static_cast<T *>(grad.weight_grad)[filter * grad.weight_out + grad.taps[t].weight] = T(weight_sums[t]);
      }
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
