#include "conv_gemm_launch.cuh"

namespace kerneldna::cuda {

void conv_gemm_wgmma_bf16(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  launch_conv_gemm_form<__nv_bfloat16, 3>(call, plan, partial, stream);
}

} // namespace kerneldna::cuda
