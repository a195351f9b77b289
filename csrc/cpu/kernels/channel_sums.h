// The gradient of bias: the sum over samples and pixels for every channel. A unit of work is a vector of channels.
// Short chains of additions go into doubles, so that the error does not grow with the number of pixels.
#pragma once

#include "conv_params.h"
#include "simd.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

template <class S, class T> void channel_sums(const ChannelSums &work, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<T>;
  constexpr int64_t kChain = 16; // additions one after the other
  const Image &image = work.image;
  const bool from_channels = image.column_stride != 1 && image.channel_stride == 1;
  T *sums = static_cast<T *>(work.sums);
  for (int64_t c = begin * lanes; c < work.channels && c < end * lanes; c += lanes) {
    const int64_t width = work.channels - c < lanes ? work.channels - c : lanes;
    double totals[lanes] = {};
    Vec<T> across{};
    int64_t chained = 0; // pixels in `across`
    auto add_chain = [&] {
      for (int j = 0; j < lanes; ++j)
        totals[j] += across[j];
      across = Vec<T>{};
      chained = 0;
    };
    for (int64_t n = 0; n < work.batch; ++n)
      for (int64_t h = 0; h < image.height; ++h) {
        const S *row = static_cast<const S *>(image.data) + n * image.batch_stride + c * image.channel_stride +
                       h * image.row_stride;
        if (from_channels) {
          for (int64_t w = 0; w < image.width; ++w) {
            across += load_first(row + w * image.column_stride, width);
            if (++chained == kChain)
              add_chain();
          }
          continue;
        }
        for (int64_t i = 0; i < width; ++i)
          for (int64_t w = 0; w < image.width;) {
            const int64_t last = image.width - w < kChain * lanes ? image.width : w + kChain * lanes;
            Vec<T> along{};
            for (; w < last; w += lanes) {
              const int64_t pixels = last - w < lanes ? last - w : lanes;
              along += load_masked(row + i * image.channel_stride + w * image.column_stride, (1u << pixels) - 1,
                                   image.column_stride);
            }
            totals[i] += sum_lanes<T>(along);
          }
      }
    add_chain();
    for (int64_t i = 0; i < width; ++i)
      sums[c + i] = T(totals[i]);
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
