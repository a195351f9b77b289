// The gradient of bias: the sum over samples and pixels for every channel. A unit of work is a vector of channels.
#pragma once

#include "conv_params.h"
#include "simd.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

template <class S, class T> void channel_sums(const ChannelSums &work, int64_t begin, int64_t end) {
  constexpr int lanes = kLanes<T>;
  const Image &image = work.image;
  const bool from_channels = image.column_stride != 1 && image.channel_stride == 1;
  T *sums = static_cast<T *>(work.sums);
  for (int64_t c = begin * lanes; c < work.channels && c < end * lanes; c += lanes) {
    const int64_t width = work.channels - c < lanes ? work.channels - c : lanes;
    Vec<T> across{};
    for (int64_t n = 0; n < work.batch; ++n)
      for (int64_t h = 0; h < image.height; ++h) {
        const S *row = static_cast<const S *>(image.data) + n * image.batch_stride + c * image.channel_stride +
                       h * image.row_stride;
        if (from_channels) {
          for (int64_t w = 0; w < image.width; ++w)
            across += load_first(row + w * image.column_stride, width);
        } else {
          for (int64_t i = 0; i < width; ++i) {
            Vec<T> along{};
            for (int64_t w = 0; w < image.width; w += lanes) {
              const int64_t pixels = image.width - w < lanes ? image.width - w : lanes;
              along += load_masked(row + i * image.channel_stride + w * image.column_stride, (1u << pixels) - 1,
                                   image.column_stride);
            }
            across[i] += sum_lanes<T>(along);
          }
        }
      }
    store_first(sums + c, across, width);
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
