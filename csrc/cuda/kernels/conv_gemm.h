// The convolution as one matrix product, with the attentions inside: the forward, the gradient of the input, and the
// sums that the gradients of the attentions are made of.
//
//     y[n, p, o] = f[n, o] * sum_{t, i} W[o, t, i] * (s[n, t] * c[n, i]) * x[n, p@t, i] + bias[o]
//
// M is the pixels of all samples, flat; N the filters of a group; K the taps and, inside each, the channels of a group.
// s * c scales A on its way from shared memory into registers; f and bias come when a tile is done. With x and y
// exchanged the same product is the gradient of the input: A is grad_output, scaled by s * f, W is read the other way
// round, and c comes when a tile is done (lattice.h says which pixels and taps meet).
//
// A tile may also sum over its pixels, sample by sample, the products of a partner with what it has before the last
// scale:
//     gradient of the input, partner x             sum_q x[n, q, i] * dx[n, q, i] / c[n, i], the gradient of c[n, i]
//     forward, partner gy                          sum_p gy[n, p, o] * y[n, p, o] / f[n, o], the gradient of f[n, o]
//     forward, one tap at a time, partner gy       e[n, t, o] = sum_p gy[n, p, o] * sum_i W[o, t, i] * c[n, i] * x[n,
//     p@t, i],
//                                                  which gives df[n, o] = sum_t s[n, t] * e[n, t, o] and
//                                                  ds[n, t] = sum_o f[n, o] * e[n, t, o] (attention_sums.h)
#pragma once

#include "dtypes.h"
#include "geometry.h"
#include "launch.h"

namespace kerneldna::cuda {

// Channels and filters of a group fill whole vectors of 16 bytes, and so does all memory that is read by channels: it
// is read and written in no other way. Attentions here are those per sample, or static ones that stand in the epilogue;
// what else is static has been folded into the weight (weight_fold.h).
struct ConvGemm {
  Geometry geometry;
  bool transposed;    // the gradient of the input
  bool by_tap;        // each tap on its own, into pixel_sums; the forward only
  Image source;       // input, or grad_output where transposed
  const void *weight; // [C_out, taps, C_in / groups], contiguous
  Scale source_scale; // g, along K: of each channel of source, or of each tap and channel (reduction_scale.h)
  int tap_stride;     // of g from tap to tap; 0 where they share it
  Image target;       // its data is null where only pixel_sums are wanted
  Scale target_scale;
  const void *bias; // or null
  Image partner;
  float *pixel_sums; // [slots, taps if by_tap, channels of target], or null
};

enum class ConvMath { f16, bf16, tf32 };

// How a call is cut into blocks: a function of its shape and of the device, so that the order of all sums is too.
struct ConvGemmPlan {
  int form;          // which of the tiles that are compiled for the numbers
  int splits;        // of K, whose partial sums another launch adds up
  int64_t partials;  // float32 numbers of workspace that this takes
  int sum_rows;      // pixels of a tile that share a row of pixel_sums
  int64_t sum_slots; // rows of pixel_sums
};
ConvGemmPlan plan_conv_gemm(const ConvGemm &call, ConvMath math, const Limits &limits);

// partial: workspace of plan.partials numbers.
void conv_gemm(const ConvGemm &call, ConvMath math, const ConvGemmPlan &plan, float *partial, Stream stream);

// One file each, which compile side by side.
void conv_gemm_f16(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);
void conv_gemm_bf16(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);
void conv_gemm_wgmma_f16(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);
void conv_gemm_wgmma_bf16(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);
void conv_gemm_tf32(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);

// The tiles that are compiled, by ConvGemmPlan::form.
struct TileForm {
  int block_m, block_n, block_k, threads, stages;
  int capability = 0; // of the only GPUs that it is for, and of the only code
};
inline constexpr TileForm kHalfForms[] = {{128, 128, 32, 256, 3},     {128, 64, 32, 128, 3},
                                          {64, 64, 32, 128, 4},       {128, 256, 64, 256, 4, 90},
                                          {128, 128, 64, 256, 3, 90}, {128, 64, 64, 256, 3, 90}};
inline constexpr TileForm kTf32Forms[] = {{64, 64, 16, 128, 4}};

} // namespace kerneldna::cuda
