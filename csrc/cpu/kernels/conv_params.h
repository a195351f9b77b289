// The parameters of the CPU kernels: sizes, strides and raw pointers. No torch here.
//
// Forward and input gradient are the same computation, a convolution (ConvParams):
//
//     target[n,o,p] = out_scale[n,o] * sum_t tap_scale[n,t] * sum_i weight[o,i,t] * in_scale[n,i] * source[n,i,q(p,t)]
//     + bias[n,o]
//
// Forward: source = x, in_scale = c, out_scale = f. Input gradient: source = dy, in_scale = f, out_scale = c, the
// weight with O and I transposed, and q inverted; with stride it falls apart into stride_h * stride_w dense
// convolutions, one for each residue class of input pixels, each with the taps that reach the class.
#pragma once

#include <cstdint>

namespace kerneldna::cpu {

enum class Stored { f64, f32, f16, bf16 }; // half dtypes are computed in float, the others in themselves

// A [batch, channels, height, width] array; strides in elements.
struct Image {
  void *data;
  int64_t batch_stride, channel_stride, row_stride, column_stride;
  int64_t height, width;
};

// Factors per channel (or tap) in the dtype of the arithmetic, contiguous; batch_stride 0 where static.
struct Scale {
  const void *data;
  int64_t batch_stride;
};

struct Tap {
  int64_t row, column; // of the source pixel, where target lattice pixel (0, 0) reads
  int64_t scale;       // index into tap_scale
  int64_t weight;      // offset in the weight
};

struct ConvParams {
  int64_t batch, groups;
  int64_t in_channels, out_channels; // of one group
  Image source, target;
  int64_t lattice_height, lattice_width; // target pixels: origin + step * lattice pixel
  int64_t source_step[2], target_step[2], target_origin[2];
  const Tap *taps;
  int64_t tap_count;

  // Element (o, i, t) of a group's weight stands at sample * weight_sample + group * weight_group
  // + o / kRows * weight_block + o % kRows * weight_row + i * weight_channel + taps[t].weight. weight_sample is 0 where
  // all samples have one weight.
  const void *weight;
  int64_t weight_sample, weight_group, weight_block, weight_row, weight_channel;

  // If set, the weight of sample n is sum_k mix[n,k] * (the weight that stands k * weight_kernel further on): in a
  // dense convolution a piece is mixed just before it is multiplied.
  Scale mix;
  int64_t kernels, weight_kernel;

  // The same weight packed for gemm_nhwc, which reads this one instead; null for gemm_nchw, and where each sample has a
  // kernel of its own.
  const void *panels;
  int64_t panel_width;
  bool folded_taps; // tap_scale, static, stands in the panels already: for share_rows
  bool share_rows;  // every tile lies in one sample, and tap_scale is finite (shared_rows.h, gemm_nhwc.h)

  Scale in_scale, tap_scale, out_scale;
  Scale bias; // a term for each channel; data null where there is none

  // If set: partial[(tile + n) * groups * out_channels + o] = sum over the tile's pixels of sample n of the unscaled
  // result times partner. For the gradient of c: partner = x.
  const Image *partner;
  void *partial;

  int64_t tiles;        // the lattice pixels of all samples, cut into so many tiles ...
  int64_t tile_samples; // ... of so many whole samples; or 0, of whole vectors
  int64_t out_split;    // the filters, cut into so many parts
};

// The lattice pixels, of all samples, of a tile.
struct TileRange {
  int64_t first, after;
};

__attribute__((always_inline)) inline TileRange tile_range(const ConvParams &conv, int64_t tile, int64_t lanes) {
  const int64_t pixels = conv.lattice_height * conv.lattice_width, all = conv.batch * pixels;
  if (conv.tile_samples) {
    const int64_t samples = conv.tile_samples * pixels, after = (tile + 1) * samples;
    return {tile * samples, after < all ? after : all};
  }
  // Cut at whole vectors: of a sample, where a tile lies in one, or of all.
  const int64_t count = conv.share_rows ? pixels : all, tiles = conv.share_rows ? conv.tiles / conv.batch : conv.tiles;
  const int64_t vectors = (count + lanes - 1) / lanes, within = tile % tiles, begin = tile / tiles * count;
  const int64_t after = (within + 1) * vectors / tiles * lanes;
  return {begin + within * vectors / tiles * lanes, begin + (after < count ? after : count)};
}

// The weight of a ConvParams, repacked in panels of filters (gemm_nhwc.h): element (o, i, t) of a group is read at
// group * weight_group + o * weight_row + i * weight_channel + taps[t].weight.
struct PackPanels {
  int64_t groups, in_channels, out_channels; // of one group
  const Tap *taps;
  int64_t tap_count;
  const void *weight;
  int64_t weight_group, weight_row, weight_channel;
  const void *tap_scale; // goes into the panels; or null
  void *panels;
  int64_t panel_width; // kRows; or for gemm_nhwc a multiple of the lanes, at most kPanelVectors of them
};

// Gradients of weight, f and s, and where it is asked for of c, all from the products
// G[n,o,i,t] = sum_p dy[n,o,p] * x[n,i,q(p,t)], of which only one block exists at a time:
//
//     dW[o,i,t] = sum_n f[n,o] * s[n,t] * c[n,i] * G[n,o,i,t]
//     df[n,o] = sum_t s[n,t] * r[n,o,t],  ds[n,t] = sum_o f[n,o] * r[n,o,t]
//         with r[n,o,t] = sum_i W[o,i,t] * c[n,i] * G[n,o,i,t]
//     dc[n,i] = sum_o sum_t f[n,o] * s[n,t] * W[o,i,t] * G[n,o,i,t]
//
// Nothing is divided by c, f or s, and nothing but the inputs was saved. Of a mixture W is sum_k a[n,k] * W_k, and
//
//     dW_k[o,i,t] = sum_n a[n,k] * f[n,o] * s[n,t] * c[n,i] * G[n,o,i,t]
//     da[n,k] = sum_o sum_t f[n,o] * s[n,t] * sum_i W_k[o,i,t] * c[n,i] * G[n,o,i,t]
struct WeightGradParams {
  int64_t batch, groups;
  int64_t in_channels, out_channels; // of one group
  Image source, grad;                // x and dy
  int64_t source_step[2];
  const Tap *taps; // .weight is the offset in weight and in weight_grad
  int64_t tap_count;

  // Element (o, i, t) of both: (group * out_channels + o) * weight_out + i * weight_channel + taps[t].weight.
  const void *weight;
  void *weight_grad;
  int64_t weight_out, weight_channel;

  // If set, a: the weight and its gradient are of `kernels` parents, weight_kernel apart, and it is per_sample.
  Scale mix;
  int64_t kernels, weight_kernel;

  Scale in_scale, tap_scale, out_scale;
  bool per_sample; // the block is emptied after every sample, not once: f or s is per sample, or c where dc is wanted

  // Null where not wanted; zero at the start. Added up by the caller.
  double *channel_partial; // [out_blocks, batch or 1, groups * in_channels]
  double *filter_partial;  // [in_split, batch or 1, groups * out_channels]
  double *tap_partial;     // [units, batch or 1, tap_count]
  double *kernel_partial;  // [units, batch, kernels]

  // A unit of work: a block of filters of a group by a part of its input channels.
  int64_t out_blocks, in_split;
};

// The kernel of one sample is sum_k factors[k] * parents[k], all in the dtype of the arithmetic and contiguous; on the
// way back `kernel` is its gradient. A unit of work is a block of its elements.
struct Mixture {
  const void *parents; // [count, size]
  const void *factors; // [count]
  int64_t count, size;
  void *kernel; // [size]

  void *parent_grads; // [count, size], added to; or null
  double *dots;       // [units, count]: the gradient of the factors, to be added up; or null

  int64_t units() const { return (size + kBlock - 1) / kBlock; }
  static constexpr int64_t kBlock = 4096;
};

// sums[channel] = the sum over all samples and pixels.
struct ChannelSums {
  Image image;
  int64_t batch, channels;
  void *sums;
};

} // namespace kerneldna::cpu
