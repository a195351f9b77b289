#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "gemm_call.h"

#include "tf32.h"

#include <algorithm>
#include <limits>

namespace kerneldna::cuda {

void check_countable(const char *op, const ConvShape &shape) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const std::pair<const char *, int64_t> sizes[] = {
      {"a sample of the input", shape.in_channels * shape.in_height * shape.in_width},
      {"a sample of the output", shape.out_channels * shape.out_height * shape.out_width},
      {"the weight",
       shape.out_channels * (shape.in_channels / shape.groups) * shape.kernel_height * shape.kernel_width},
      {"a row of padded input", shape.in_width + 2 * shape.padding[1]},
      {"a column of padded input", shape.in_height + 2 * shape.padding[0]},
      {"a stride", std::max(shape.stride[0], shape.stride[1])},
      {"a dilation", std::max(shape.dilation[0], shape.dilation[1])}};
  for (const auto &[what, size] : sizes)
    check(size <= kMost, op, ": the CUDA kernels count the elements of ", what, " up to ", kMost, ", got ", size);
}

bool is_depthwise(const ConvShape &shape) { return shape.groups > 1 && shape.groups == shape.in_channels; }

ConvMath math_of(ScalarType dtype) {
  switch (stored_of(dtype)) {
  case Stored::f64:
    return ConvMath::f64;
  case Stored::f32:
    return tf32_allowed() ? ConvMath::tf32 : ConvMath::f32;
  case Stored::f16:
    return ConvMath::f16;
  default:
    return ConvMath::bf16;
  }
}

void run_conv_gemm(const ConvGemm &call, const ConvGemmPlan &plan, const Tensor &like, Stream stream) {
  Tensor partial;
  if (plan.partials)
    partial = empty({plan.partials}, compute_dtype(like.scalar_type()), like);
  conv_gemm(call, math_of(like.scalar_type()), plan, plan.partials ? partial.mutable_data_ptr() : nullptr, stream);
}

} // namespace kerneldna::cuda

#endif
