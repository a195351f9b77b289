#include "conv_gemm_launch.cuh"

namespace kerneldna::cuda {

void conv_gemm_tf32(const ConvGemm &call, const ConvGemmPlan &plan, float *partial, Stream stream) {
  launch_conv_gemm_form<Tf32Form>(call, plan, partial, stream);
}

} // namespace kerneldna::cuda
