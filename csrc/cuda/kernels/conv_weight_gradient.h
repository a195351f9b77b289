// The gradient of the weight that a convolution multiplies with, as one matrix product over the pixels of all samples.
//
// With p a pixel of the output, p@t the pixel of the input that tap t of p lies on, and factors of each sample n
//
//     dW[o, t, i] = sum_n sum_p (f[n, o] gy[n, p, o]) (s[n, t] c[n, i] x[n, p@t, i])
//
// which is a product [C_out, pixels] x [pixels, C_in / groups] for every tap: the implicit GEMM of the forward with the
// pixels as the axis that is summed over. A block of threads owns a square of filters and channels of one tap and runs
// through pixels, in steps that cross rows and samples, so that small maps waste nothing; the factors are those of each
// row of a step. There are few squares and many pixels: the pixels are cut into parts, each written on its own and
// added in order by unfold_weight (weight_fold.h). No atomics, and the same bits on every run on one kind of device.
#pragma once

#include "dtypes.h"
#include "geometry.h"
#include "launch.h"

namespace kerneldna::cuda {

struct ConvWeightGradient {
  Geometry geometry;
  Image grad_output, input;
  Scale channel, filter, spatial; // [C_in], [C_out] and [taps] for each sample

  // Set by plan_conv_weight_gradient.
  int block; // filters and channels of a block of threads
  int parts; // none where there are no samples
  int steps; // of one part, at most

  float *partial; // [parts, C_out, taps, C_in / groups]
};

// Chooses blocks and parts, by which the result is rounded: they depend on sizes and the number of multiprocessors
// alone.
void plan_conv_weight_gradient(ConvWeightGradient &gradient, Stored stored, const Limits &limits);

void conv_weight_gradient(const ConvWeightGradient &gradient, Stored stored, Stream stream);

// By what the tensors store; conv_weight_gradient calls the one that fits.
void conv_weight_gradient_f16(const ConvWeightGradient &gradient, Stream stream);
void conv_weight_gradient_bf16(const ConvWeightGradient &gradient, Stream stream);
void conv_weight_gradient_f32(const ConvWeightGradient &gradient, Stream stream); // in TF32

} // namespace kerneldna::cuda
