#include "conv_gemm_launch.cuh"

namespace kerneldna::cuda {

void conv_gemm_f16(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  launch_conv_gemm_form<__half, 0>(call, plan, partial, stream);
}

} // namespace kerneldna::cuda
