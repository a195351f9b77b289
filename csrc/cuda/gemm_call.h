// From the tensors of a call to launches of conv_gemm (kernels/conv_gemm.h): what forward and backward share.
#pragma once

#include "host.h"
#include "kernels/conv_gemm.h"

namespace kerneldna::cuda {

// Throws one sentence if a size does not fit into the kernels' 32 bits.
void check_countable(const char *op, const ConvShape &shape);

bool is_depthwise(const ConvShape &shape);

// How numbers of a dtype are multiplied; float32 in TF32 if this thread may (tf32.h).
ConvMath math_of(ScalarType dtype);

// An attention as the matrix product sees it: factors of each sample, or what the weight can take in once for all.
struct Attention {
  OptionalTensor per_sample, fixed;
  Attention(const OptionalTensor &attention, int64_t static_dim) {
    (is_per_sample(attention, static_dim) ? per_sample : fixed) = attention;
  }
};

// Runs the plan of the call with the workspace that it needs.
void run_conv_gemm(const ConvGemm &call, const ConvGemmPlan &plan, const Tensor &like, Stream stream);

} // namespace kerneldna::cuda
