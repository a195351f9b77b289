// From the tensors of a call to launches of conv_gemm (kernels/conv_gemm.h): what forward and backward share.
#pragma once

#include "conv_refusal.h"
#include "host.h"
#include "kernels/conv_gemm.h"

namespace kerneldna::cuda {

// Throws one sentence if the kernels do not take a call, whose float32 this thread may multiply in TF32 or not
// (tf32.h).
void check_taken(const char *op, const ConvShape &shape, const Tensor &input);

// How numbers of a dtype are multiplied.
ConvMath math_of(ScalarType dtype);

// An attention as the matrix product sees it: factors of each sample, or what the weight can take in once for all.
struct Attention {
  OptionalTensor per_sample, fixed;
  Attention(const OptionalTensor &attention, int64_t static_dim) {
    (is_per_sample(attention, static_dim) ? per_sample : fixed) = attention;
  }
};

// Sets the factors along K, of each sample: c of the channels of the source and s of the taps, each absent or not.
// Where there is an s the result is what they are stored in, which must live as long as the call.
Tensor scale_source(ConvGemm &call, const Scale &channel, const Scale &spatial, const Tensor &like, Stream stream);

// Runs the plan of the call with the workspace that it needs.
void run_conv_gemm(const ConvGemm &call, const ConvGemmPlan &plan, const Tensor &like, Stream stream);

} // namespace kerneldna::cuda
