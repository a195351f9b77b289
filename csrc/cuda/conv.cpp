// kerneldna::conv on CUDA.
#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "conv_depthwise.h"
#include "conv_weight.h"
#include "gemm_call.h"
#ifndef KERNELDNA_HOST_EXECUTION
#include "../plain_conv.h"
#include "../selection.h"
#include "refusal.h"
#include "tf32.h"
#endif

namespace kerneldna::cuda {
namespace {

constexpr const char *kOp = "kerneldna::conv";

Tensor run(const ConvShape &shape, const Tensor &input, const Tensor &weight, OptionalTensor bias,
           const OptionalTensor &channel_attention, OptionalTensor filter_attention,
           const OptionalTensor &spatial_attention) {
  check_taken(kOp, shape, input);
  if (is_depthwise(shape))
    return depthwise_forward(shape, input, weight, bias, channel_attention, filter_attention, spatial_attention);
  const Tensor output = empty_image({shape.batch, shape.out_channels, shape.out_height, shape.out_width}, input);
  if (shape.batch > 0) {
    const Queue queue(input);
    const Tensor source = in_vectors(input);
    Attention channel(channel_attention, 1), spatial(spatial_attention, 2);
    const FoldedWeight folded = folded_weight(shape, weight, {channel.fixed, std::nullopt, spatial.fixed}, queue);

    ConvGemm call{};
    call.geometry = geometry_of(shape);
    call.source = image_of(source);
    call.weight = folded.data;
    const Tensor factors =
        scale_source(call, scale_of(channel.per_sample, 1), scale_of(spatial.per_sample, 2), input, queue);
    call.target = image_of(output);
    call.target_scale = scale_of(filter_attention, 1);
    call.bias = scale_of(bias, 1).data;
    const Limits &limits = limits_of(Stream(queue).device);
    run_conv_gemm(call, plan_conv_gemm(call, math_of(input.scalar_type()), limits), input, queue);
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
  if (!conv_refusal(shape, input.element_size(), tf32_allowed()).empty() || !refusal(input.get_device_index()).empty())
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
