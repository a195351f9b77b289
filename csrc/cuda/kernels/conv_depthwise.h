// Depthwise convolution: groups = C_in = C_out, so that output channel i reads input channel i alone.
//
// In a GEMM over channels and taps, all rows but one would be zeros, and there is nothing for tensor cores to do. So
// the taps are added up directly, over the channels of a pixel, which are adjacent in memory:
//
//     y[n, p, i] = f[n, i] * sum_t (s[n, t] W[i, t] c[n, i]) x[n, p@t, i] + bias[i]      p@t: input pixel under tap t
//     dx[n, q, i] = c[n, i] * sum_t (s[n, t] W[i, t] f[n, i]) gy[n, p, i]                over the p with p@t = q
//
// One formula: a target pixel is a sum over taps of source pixels, the scale of the source's channel and that of the
// tap belong into the weight, and the scale of the target's channel stands before the sum.
//
// All other gradients follow from the correlation of a sample, and so do their parts from the correlation of a part of
// its pixels, since they are linear in it:
//
//     D[n, i, t] = sum_p gy[n, p, i] x[n, p@t, i]           E[n, i] = sum_t s[n, t] W[i, t] D[n, i, t]
//     dW[i, t] = sum_n f s c D      df[n, i] = c E      dc[n, i] = f E      ds[n, t] = sum_i f c W D
//
// Nothing is divided by an f, c or s that may be zero, and D lives in registers.
//
// Channels fill whole vectors of 16 bytes, and the widths and strides are few: conv_refusal.h.
#pragma once

#include "dtypes.h"
#include "geometry.h"
#include "launch.h"

namespace kerneldna::cuda {

// [C, 1, kh, kw] with any strides, in elements.
struct DepthwiseWeight {
  const void *data;
  int64_t channel_stride, row_stride, column_stride;
};

// All tensors hold one type.
struct Depthwise {
  Geometry geometry;
  Image source, target; // forward: input and output; input gradient: grad_output and grad_input
  DepthwiseWeight weight;
  Scale source_scale, target_scale, spatial;
  const void *bias; // of the target's channels, or null
};

void depthwise_conv(const Depthwise &conv, Stored stored, Stream stream);
void depthwise_conv_transposed(const Depthwise &conv, Stored stored, Stream stream);

// A gradient is null where it is not wanted. Each is contiguous and holds the type of the tensors.
struct DepthwiseGrads {
  Geometry geometry;
  Image input, grad_output;
  DepthwiseWeight weight;
  Scale channel, filter, spatial;
  // Whether the gradient has a row for each sample, or one that is summed over them.
  bool channel_per_sample, filter_per_sample, spatial_per_sample;
  void *grad_weight, *grad_channel, *grad_filter, *grad_spatial;
  float *workspace; // of depthwise_workspace numbers
};

int64_t depthwise_workspace(const DepthwiseGrads &grads, Stored stored, int device);
void depthwise_correlation(const DepthwiseGrads &grads, Stored stored, Stream stream);

} // namespace kerneldna::cuda
