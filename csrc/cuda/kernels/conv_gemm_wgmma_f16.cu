#include "conv_gemm_launch.cuh"

namespace kerneldna::cuda {

void conv_gemm_wgmma_f16(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  launch_conv_gemm_form<__half, 3>(call, plan, partial, stream);
}

} // namespace kerneldna::cuda
