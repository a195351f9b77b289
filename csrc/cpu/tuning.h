// The numbers by which the CPU kernels are tuned. All were measured on two cores of an AMD EPYC with AVX-512 and 1 MB
// of second-level cache a core (Zen 5; the first three again on Zen 4), in float32, and what is given here are ratios
// to F.conv2d in the same process; 128@28 are 128 channels of 28x28 pixels. Those for kernels of samples' own were
// measured on two cores of a Xeon (family 6, model 207, 2 MB a core). AVX2 and other processors take the same
// numbers. Lengths of chains of additions, which are there for precision, stand in the kernels, blocks of registers in
// microkernel.h.
#pragma once

#include <cstdint>

namespace kerneldna::cpu {

// gemm_nchw.h and gemm_nhwc.h.
// Of the reduction, channels times taps, built and multiplied at a time: its columns stay in the second-level cache.
// 288 and 1152 are within the spread, and for AVX2 288 is 1 to 4 % faster.
constexpr int64_t kChunk = 576;
// The same where each sample has a kernel of its own: beside the columns it holds that chunk of all parents. Not tried
// otherwise.
constexpr int64_t kMixedChunk = 288;
// ... and a tile is of whole samples with so many pixels at most: each reads all parents once. 800 are within the
// spread.
constexpr int64_t kMixedTilePixels = 400;
// Bytes of a row of a tile: 192 pixels in float. 576 to 1536 are within the spread; for AVX2 1536 is 8 to 10 % slower.
constexpr int64_t kTileBytes = 768;
// A part of the filters: its results stay in the second-level cache beside a tile's columns.
constexpr int64_t kResultBytes = 400 << 10;
// The cost of building a column against that of multiplying it with one filter.
constexpr double kBuildCost = 6.0;

// Tiles that share rows (shared_rows.h): maps from so many pixels on, ...
constexpr int64_t kLeastSharedPixels = 384;
// ... in tiles of so many pixels: 400 and not 384 cuts 28x28 in two and not in four, 128@28 batch 32 1.09 -> 1.04. With
// one sample, scratch decides the peak of memory, and a smaller tile costs a hundredth of the time.
constexpr int64_t kSharedTilePixels = 400, kSharedTilePixelsOfOneSample = 320;
// In NCHW, up to so many filters: with more the columns cost little.
constexpr int64_t kMostSharedFilters = 256;
// Where samples have kernels of their own, in NCHW, elements of all parents up to which each sample may read them once
// more, because they stay in the second-level cache; then maps take this way from so many pixels on, and else from
// kLeastSharedPixels on. On the Xeon, K=4, forward: 384->64@14 1.99 -> 1.13, 96->576@14 1.58 -> 1.23; with room for the
// parents of 256@14, which are 9 MB, 1.80 -> 1.83 at batch 8 and 1.81 -> 1.60 at batch 32. Other sizes were not tried.
constexpr int64_t kCachedParents = 256 << 10, kLeastMixedPixels = 128;

// gemm_nhwc.h is taken from so many channels and so many pixels for each filter on, and from so many pixels on whatever
// the filters: 512@7 batch 8 1.18 -> 1.00. Packing its panels costs as much as a few pixels for each filter.
constexpr int64_t kLeastNhwcChannels = 8, kPixelsPerFilter = 3, kEnoughPixels = 384;
// Channels from which on one tap is enough for a chunk, and pixels from which it reaches no source column are left out:
// 512@7 batch 32 1.11 -> 1.02.
constexpr int64_t kChannelsOfTap = 192;
// Panels that are packed together: their filters may stand in the same cache line. 512@7 batch 8, input gradient: 16.6
// -> 8.0 ms.
constexpr int64_t kPanelsTogether = 8;

// gemm_weight_grad.h.
// Pixels of a band of x, or a row.
constexpr int64_t kBandPixels = 256;
// Elements of a block of products: beside the weight and its gradient they stay in the second-level cache. Where a map
// is one band, there are no products to keep, and a block may be twice as large.
constexpr int64_t kProductElements = 32 << 10;
constexpr int64_t kMostBlockRows = 16; // in kRows
constexpr int64_t kMostInSplit = 4;
// The gradient of c comes with that of the weight where a channel has so many pixels for each of its products, filters
// times taps; elsewhere with that of the input, which reads x once more.
constexpr double kPixelsPerProduct = 0.75;

// depthwise_*_weight_grad.h: units of work. Their number must not follow the number of threads, or sums would.
constexpr int64_t kDepthwiseUnits = 16;

// squeeze_excite.h.
// Scalar steps below which another thread costs more than it brings.
constexpr int64_t kGrain = 32768;
// Pixels that one task adds up.
constexpr int64_t kPixelBlock = 256;

} // namespace kerneldna::cpu
