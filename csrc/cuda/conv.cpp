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

constexpr const char *kOp = "kerneldna::conv";

// [C_out, taps, C_in / groups] in memory, from a multiple of 16 bytes on: what a channels_last weight is.
Tensor by_taps(const Tensor &weight) {
  const Tensor contiguous = torch::stable::contiguous(weight, torch::headeronly::MemoryFormat::ChannelsLast);
  return is_aligned(contiguous.const_data_ptr(), {}, 1) ? contiguous : torch::stable::clone(contiguous);
}

// The factors s * c along K of each tap and channel, which must live as long as the call.
Tensor scale_by_taps(ConvGemm &call, const Scale &spatial, const Tensor &like, Stream stream) {
  const Geometry &g = call.geometry;
  const int taps = g.kernel_height * g.kernel_width;
  const Tensor product = empty({g.batch, taps, g.in_channels}, like.scalar_type(), like);
  reduction_scale({g.batch, taps, g.in_channels, spatial, call.input_scale, product.mutable_data_ptr()},
                  stored_of(like.scalar_type()), stream);
  call.input_scale = {product.const_data_ptr(), int64_t(taps) * g.in_channels};
  call.tap_stride = g.in_channels;
  return product;
}

// The attentions and the bias are copied where the kernels cannot read them as they are.
void run_gemm(const Geometry &geometry, const Tensor &input, const Tensor &weight, const Image &output,
              OptionalTensor bias, OptionalTensor channel_attention, OptionalTensor filter_attention,
              OptionalTensor spatial_attention, Stream stream) {
  const Tensor kernel = by_taps(weight);
  ConvGemm call{};
  call.geometry = geometry;
  call.input = image_of(input);
  call.weight = kernel.const_data_ptr();
  call.input_scale = scale_of(channel_attention, 1);
  Tensor factors, partial;
  if (spatial_attention)
    factors = scale_by_taps(call, scale_of(spatial_attention, 2), input, stream);
  call.output = output;
  call.output_scale = scale_of(filter_attention, 1);
  call.bias = scale_of(bias, 1).data;
  const ConvGemmPlan plan = plan_conv_gemm(call, limits_of(stream.device));
  if (plan.partials)
    partial = empty({plan.partials}, ScalarType::Float, input);
  conv_gemm(call, stored_of(input.scalar_type()), plan, plan.partials ? partial.mutable_data_ptr<float>() : nullptr,
            stream);
}

void run_depthwise(const Geometry &geometry, const Tensor &input, const Tensor &weight, const Image &output,
                   OptionalTensor bias, OptionalTensor channel_attention, OptionalTensor filter_attention,
                   OptionalTensor spatial_attention, Stream stream) {
  Depthwise conv{};
  conv.geometry = geometry;
  conv.source = image_of(input);
  conv.target = output;
  conv.weight = depthwise_weight_of(weight);
  conv.source_scale = scale_of(channel_attention, 1);
  conv.target_scale = scale_of(filter_attention, 1);
  conv.spatial = scale_of(spatial_attention, 2);
  conv.bias = scale_of(bias, 1).data;
  depthwise_conv(conv, stored_of(input.scalar_type()), stream);
}

Tensor run(const ConvShape &shape, const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
           const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
           const OptionalTensor &spatial_attention) {
  check_taken(kOp, shape, input);
  const Tensor output = empty_image({shape.batch, shape.out_channels, shape.out_height, shape.out_width}, input);
  if (shape.batch > 0) {
    const StreamGuard guard(input);
    (is_depthwise(shape) ? run_depthwise : run_gemm)(geometry_of(shape), in_vectors(input), weight, image_of(output),
                                                     bias, channel_attention, filter_attention, spatial_attention,
                                                     guard);
  }
  return in_layout_of(output, input);
}

Tensor native_conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                   const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
                   const OptionalTensor &spatial_attention, const Ints &stride, const Ints &padding,
                   const Ints &dilation, int64_t groups) {
  const ConvShape shape = check_conv(kOp, input, weight, bias, channel_attention, filter_attention, spatial_attention,
                                     stride, padding, dilation, groups);
  return run(shape, input, weight, bias, channel_attention, filter_attention, spatial_attention);
}

#ifndef KERNELDNA_HOST_EXECUTION
Tensor conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
            const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
            const OptionalTensor &spatial_attention, const Ints &stride, const Ints &padding, const Ints &dilation,
            int64_t groups) {
  const ConvShape shape = check_conv(kOp, input, weight, bias, channel_attention, filter_attention, spatial_attention,
                                     stride, padding, dilation, groups);
  if (selected_in_python(call_class(shape, input, spatial_attention)))
    return selected_conv(input, weight, bias, channel_attention, filter_attention, spatial_attention, stride, padding,
                         dilation, groups);
  // Only a process with no Python comes here.
  if (!conv_refusal(shape, input.element_size()).empty() || !refusal(input.get_device_index()).empty())
    return plain_conv(input, weight, bias, channel_attention, filter_attention, spatial_attention, stride, padding,
                      dilation, groups);
  return run(shape, input, weight, bias, channel_attention, filter_attention, spatial_attention);
}
#endif

} // namespace
} // namespace kerneldna::cuda

KERNELDNA_CUDA_KERNELS(m) {
#ifdef KERNELDNA_HOST_EXECUTION
  m.impl("conv", KERNELDNA_BOX(&kerneldna::cuda::native_conv));
#else
  m.impl("conv", KERNELDNA_BOX(&kerneldna::cuda::conv));
  m.impl("_native_conv", KERNELDNA_BOX(&kerneldna::cuda::native_conv));
#endif
}

#endif
