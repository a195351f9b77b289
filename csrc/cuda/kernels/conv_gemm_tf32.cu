#include "conv_gemm_launch.cuh"

namespace kerneldna::cuda {

template <bool Transposed> using Math = Tf32Math<64, 64, 16, 2, 2, Transposed>;

void conv_gemm_tf32(const ConvGemm &call, const ConvGemmPlan &plan, void *partial, Stream stream) {
  if (plan.form == 0)
    launch_conv_gemm_form<Math, kTf32Forms[0].stages, true>(call, plan, partial, stream);
  else
    launch_conv_gemm_form<Math, kTf32Forms[1].stages, false>(call, plan, partial, stream);
}

} // namespace kerneldna::cuda
