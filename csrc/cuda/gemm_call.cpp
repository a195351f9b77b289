#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "gemm_call.h"

#include "kernels/reduction_scale.h"
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

Tensor scale_source(ConvGemm &call, const Scale &channel, const Scale &spatial, const Tensor &like, Stream stream) {
  const Geometry &g = call.geometry;
  const int taps = g.kernel_height * g.kernel_width, channels = call.transposed ? g.out_channels : g.in_channels;
  if (!spatial.data) {
    call.source_scale = channel;
    return {};
  }
  const Tensor product = empty({g.batch, taps, channels}, like.scalar_type(), like);
  reduction_scale({g.batch, taps, channels, spatial, channel, product.mutable_data_ptr()},
                  stored_of(like.scalar_type()), stream);
  call.source_scale = {product.const_data_ptr(), int64_t(taps) * channels};
  call.tap_stride = channels;
  return product;
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
