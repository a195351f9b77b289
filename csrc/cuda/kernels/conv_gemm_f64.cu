#include "conv_gemm_launch.cuh"

namespace kerneldna::cuda {

void conv_gemm_f64(const ConvGemm &call, const ConvGemmPlan &plan, void *partial, Stream stream) {
  launch_conv_gemm_form<PlainForm<double>, false>(call, plan, partial, stream);
}

} // namespace kerneldna::cuda
