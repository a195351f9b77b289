// kerneldna::conv on CUDA.
#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "conv_refusal.h"
#include "host.h"
#include "kernels/conv_depthwise.h"
#include "kernels/conv_gemm.h"
#include "kernels/reduction_scale.h"
#ifndef KERNELDNA_HOST_EXECUTION
#include "../plain_conv.h"
#include "../selection.h"
#include "refusal.h"
#endif

namespace kerneldna::cuda {
namespace {

// [C_out, taps, C_in / groups] in memory, from a multiple of 16 bytes on: what a channels_last weight is.
Tensor by_taps(const Tensor &weight) {
  const Tensor contiguous = torch::stable::contiguous(weight, torch::headeronly::MemoryFormat::ChannelsLast);
  return is_aligned(contiguous.const_data_ptr(), {}, 1) ? contiguous : torch::stable::clone(contiguous);
}

// The factors s * c along K of each tap and channel, which must live as long as the call.
Tensor scale_by_taps(ConvGemm &gemm, const Scale &spatial, const Tensor &like, Stream stream) {
  const Geometry &g = gemm.geometry;
  const int taps = g.kernel_height * g.kernel_width;
  const Tensor product = empty({g.batch, taps, g.in_channels}, like.scalar_type(), like);
  reduction_scale({g.batch, taps, g.in_channels, spatial, gemm.input_scale, product.mutable_data_ptr()},
                  stored_of(like.scalar_type()), stream);
  gemm.input_scale = {product.const_data_ptr(), int64_t(taps) * g.in_channels};
  gemm.tap_stride = g.in_channels;
  return product;
}

// As the kernels read them.
struct Operands {
  explicit Operands(const ConvCall &call)
      : geometry(geometry_of(call.shape)), input(in_vectors(call.input)),
        channel(Factors::of_channels(call.channel_attention, call.channel)),
        filter(Factors::of_channels(call.filter_attention, call.filter)),
        spatial(Factors::of_taps(call.spatial_attention, call.spatial)),
        bias(Factors::of_channels(call.bias, call.bias ? Kind::is_static : Kind::absent)) {}

  Geometry geometry;
  Tensor input;
  Factors channel, filter, spatial, bias;
};

void run_gemm(const ConvCall &call, const Operands &operands, const Tensor &output, Stream stream) {
  const Tensor kernel = by_taps(call.weight);
  ConvGemm gemm{};
  gemm.geometry = operands.geometry;
  gemm.input = image_of(operands.input);
  gemm.weight = kernel.const_data_ptr();
  gemm.input_scale = operands.channel;
  Tensor factors, partial;
  if (call.spatial != Kind::absent)
    factors = scale_by_taps(gemm, operands.spatial, operands.input, stream);
  gemm.output = image_of(output);
  gemm.output_scale = operands.filter;
  gemm.bias = operands.bias.data();
  const ConvGemmPlan plan = plan_conv_gemm(gemm, limits_of(stream.device));
  if (plan.partials)
    partial = empty({plan.partials}, ScalarType::Float, call.input);
  conv_gemm(gemm, stored_of(call.dtype()), plan, plan.partials ? partial.mutable_data_ptr<float>() : nullptr, stream);
}

void run_depthwise(const ConvCall &call, const Operands &operands, const Tensor &output, Stream stream) {
  Depthwise conv{};
  conv.geometry = operands.geometry;
  conv.source = image_of(operands.input);
  conv.target = image_of(output);
  conv.weight = depthwise_weight_of(call.weight);
  conv.source_scale = operands.channel;
  conv.target_scale = operands.filter;
  conv.spatial = operands.spatial;
  conv.bias = operands.bias.data();
  depthwise_conv(conv, stored_of(call.dtype()), stream);
}

Tensor native_conv(const ConvCall &call) {
  check_taken(call);
  const Tensor output = empty_image(call.shape.output_sizes(), call.input);
  if (call.shape.batch > 0) {
    const StreamGuard guard(call.input);
    (call.shape.depthwise() ? run_depthwise : run_gemm)(call, Operands(call), output, guard);
  }
  return in_layout(output, call.channels_last);
}

#ifndef KERNELDNA_HOST_EXECUTION
Tensor conv(const ConvCall &call) {
  if (selected_in_python(call_class(call)))
    return selected_conv(call);
  // Only a process with no Python comes here.
  if (!conv_refusal(call).empty() || !refusal(call.input.get_device_index()).empty())
    return plain_conv(call);
  return native_conv(call);
}
#endif

} // namespace
} // namespace kerneldna::cuda

KERNELDNA_CUDA_KERNELS(m) {
#ifdef KERNELDNA_HOST_EXECUTION
  m.impl("conv", KERNELDNA_BOX(&kerneldna::conv_op<kerneldna::cuda::native_conv>));
#else
  m.impl("conv", KERNELDNA_BOX(&kerneldna::conv_op<kerneldna::cuda::conv>));
  m.impl("_native_conv", KERNELDNA_BOX(&kerneldna::conv_op<kerneldna::cuda::native_conv>));
#endif
}

#endif
