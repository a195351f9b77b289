#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "gemm_call.h"

#include "tf32.h"

namespace kerneldna::cuda {

void check_taken(const char *op, const ConvShape &shape, const Tensor &input) {
  const std::string reason = conv_refusal(shape, input.element_size(), tf32_allowed());
  check(reason.empty(), op, ": the CUDA kernels do not take this call: ", reason);
}

ConvMath math_of(ScalarType dtype) {
  switch (stored_of(dtype)) {
  case Stored::f32:
    return ConvMath::tf32;
  case Stored::f16:
    return ConvMath::f16;
  default:
    return ConvMath::bf16;
  }
}

void run_conv_gemm(const ConvGemm &call, const ConvGemmPlan &plan, const Tensor &like, Stream stream) {
  Tensor partial;
  if (plan.partials)
    partial = empty({plan.partials}, ScalarType::Float, like);
  conv_gemm(call, math_of(like.scalar_type()), plan, plan.partials ? partial.mutable_data_ptr<float>() : nullptr,
            stream);
}

} // namespace kerneldna::cuda

#endif
