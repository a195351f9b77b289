// The convolution as one matrix product, with the attentions inside.
//
//     y[n, p, o] = f[n, o] * sum_{t, i} W[o, t, i] * g[n, t, i] * x[n, p@t, i] + bias[o]      p@t: pixel under tap t
//
// M is the pixels of all samples, flat; N the filters of a group; K the taps and, inside each, the channels of a group.
// g = s * c scales A on its way from shared memory into registers; f and bias come when a tile is done.
#pragma once

#include "dtypes.h"
#include "geometry.h"
#include "launch.h"
#include "tuning.h"

namespace kerneldna::cuda {

// 16-bit numbers. Channels and filters of a group fill whole vectors of 16 bytes, and so does all memory that is read
// by channels: it is read and written in no other way.
struct ConvGemm {
  Geometry geometry;
  Image input;
  const void *weight; // [C_out, taps, C_in / groups], contiguous
  Scale input_scale;  // g, along K: of each channel, or of each tap and channel (reduction_scale.h)
  int tap_stride;     // of g from tap to tap; 0 where they share it
  Image output;
  Scale output_scale; // f
  const void *bias;   // or null
};

// How a call is cut into blocks: a function of its shape and of the device, so that the order of all sums is too.
struct ConvGemmPlan {
  int form;         // of kTileForms
  int splits;       // of K, whose partial sums another launch adds up
  int64_t partials; // float32 numbers of workspace that this takes
};
ConvGemmPlan plan_conv_gemm(const ConvGemm &call, const Limits &limits);

// partial: workspace of plan.partials numbers.
void conv_gemm(const ConvGemm &call, Stored stored, const ConvGemmPlan &plan, float *partial, Stream stream);

// One file each, which compile side by side.
void conv_gemm_f16(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);
void conv_gemm_bf16(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);
void conv_gemm_wgmma_f16(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);
void conv_gemm_wgmma_bf16(const ConvGemm &, const ConvGemmPlan &, float *partial, Stream);

// The most samples that a tile of block_m pixels can hold pixels of.
inline int samples_of_tile(int block_m, const Geometry &g) {
  const int64_t pixels = int64_t(g.out_height) * g.out_width, samples = (block_m + pixels - 2) / pixels + 1;
  return int(samples < g.batch ? samples : g.batch);
}

} // namespace kerneldna::cuda
