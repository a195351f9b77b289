#include "conv_gemm_launch.cuh"

namespace kerneldna::cuda {

template <bool Transposed> using Math = PlainMath<double, 64, 64, 16, Transposed>;

void conv_gemm_f64(const ConvGemm &call, const ConvGemmPlan &plan, void *partial, Stream stream) {
  launch_conv_gemm_form<Math, kPlainForms[0].stages, false>(call, plan, partial, stream);
}

} // namespace kerneldna::cuda
