#include "conv_gemm_launch.cuh"

namespace kerneldna::cuda {

void conv_gemm_tf32(const ConvGemm &call, const ConvGemmPlan &plan, void *partial, Stream stream) {
  static_assert(std::size(kTf32Forms) == 2);
  if (plan.form == 0)
    launch_conv_gemm_form<Tf32Form<0>, true>(call, plan, partial, stream);
  else
    launch_conv_gemm_form<Tf32Form<1>, false>(call, plan, partial, stream);
}

} // namespace kerneldna::cuda
