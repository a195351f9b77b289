// kerneldna::conv_backward on CUDA, of depthwise convolutions. The others' gradients are left to Triton's kernels and
// to PyTorch's operators.
#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "conv_refusal.h"
#include "host.h"
#include "kernels/conv_depthwise.h"
#ifndef KERNELDNA_HOST_EXECUTION
#include "../selection.h"
#endif

namespace kerneldna::cuda {
namespace {

struct Scales {
  Scale channel, filter, spatial;
};

Tensor grad_input(const ConvBackwardCall &call, const Tensor &grad_output, const Scales &scales, Stream stream) {
  const Tensor gradient = empty_image(call.shape.input_sizes(), call.input);
  Depthwise conv{};
  conv.geometry = geometry_of(call.shape);
  conv.source = image_of(grad_output);
  conv.target = image_of(gradient);
  conv.weight = depthwise_weight_of(call.weight);
  conv.source_scale = scales.filter;
  conv.target_scale = scales.channel;
  conv.spatial = scales.spatial;
  depthwise_conv_transposed(conv, stored_of(call.dtype()), stream);
  return in_layout(gradient, call.channels_last);
}

Gradients native_conv_backward(const ConvBackwardCall &call) {
  check_taken(call);
  check(call.shape.depthwise(), call.op, ": the CUDA kernels make gradients of depthwise convolutions alone");
  const ScalarType dtype = call.dtype();
  const StreamGuard guard(call.input);
  const Stream stream = guard;
  const Tensor grad_output = in_vectors(call.grad_output);
  const Factors channel = Factors::of_channels(call.channel_attention, call.channel),
                filter = Factors::of_channels(call.filter_attention, call.filter),
                spatial = Factors::of_taps(call.spatial_attention, call.spatial);
  const Scales scales{channel, filter, spatial};

  const auto nothing = [&] { return empty({0}, dtype, call.input); };
  const auto like = [&](bool wanted, const OptionalTensor &tensor) {
    return wanted ? torch::stable::empty(tensor->sizes(), dtype, std::nullopt, call.input.device()) : nothing();
  };
  Gradients gradients{nothing(),
                      like(call.wants_weight(), call.weight),
                      nothing(),
                      like(call.wants_channel(), call.channel_attention),
                      like(call.wants_filter(), call.filter_attention),
                      like(call.wants_spatial(), call.spatial_attention),
                      nothing()};
  if (call.wants_input())
    std::get<0>(gradients) = grad_input(call, grad_output, scales, stream);
  if (call.wants_bias())
    std::get<2>(gradients) = torch::stable::sum(call.grad_output, std::array<int64_t, 3>{0, 2, 3});
  if (!call.wants_weight() && !call.wants_channel() && !call.wants_filter() && !call.wants_spatial())
    return gradients;

  const Tensor input = in_vectors(call.input);
  const auto target = [](bool wanted, Tensor &gradient) { return wanted ? gradient.mutable_data_ptr() : nullptr; };
  DepthwiseGrads grads{};
  grads.geometry = geometry_of(call.shape);
  grads.input = image_of(input);
  grads.grad_output = image_of(grad_output);
  grads.weight = depthwise_weight_of(call.weight);
  grads.channel = scales.channel;
  grads.filter = scales.filter;
  grads.spatial = scales.spatial;
  grads.channel_per_sample = call.channel == Kind::per_sample;
  grads.filter_per_sample = call.filter == Kind::per_sample;
  grads.spatial_per_sample = call.spatial == Kind::per_sample;
  grads.grad_weight = target(call.wants_weight(), std::get<1>(gradients));
  grads.grad_channel = target(call.wants_channel(), std::get<3>(gradients));
  grads.grad_filter = target(call.wants_filter(), std::get<4>(gradients));
  grads.grad_spatial = target(call.wants_spatial(), std::get<5>(gradients));
  const Stored stored = stored_of(dtype);
  const Tensor workspace = empty({depthwise_workspace(grads, stored, stream.device)}, ScalarType::Float, input);
  grads.workspace = workspace.mutable_data_ptr<float>();
  depthwise_correlation(grads, stored, stream);
  return gradients;
}

#ifndef KERNELDNA_HOST_EXECUTION
Gradients conv_backward(const ConvBackwardCall &call) {
  return selected_in_python(call_class(call)) ? selected_conv_backward(call) : native_conv_backward(call);
}
#endif

} // namespace
} // namespace kerneldna::cuda

KERNELDNA_CUDA_KERNELS(m) {
#ifdef KERNELDNA_HOST_EXECUTION
  m.impl("conv_backward", KERNELDNA_BOX(&kerneldna::conv_backward_op<kerneldna::cuda::native_conv_backward>));
#else
  m.impl("conv_backward", KERNELDNA_BOX(&kerneldna::conv_backward_op<kerneldna::cuda::conv_backward>));
  m.impl("_native_conv_backward", KERNELDNA_BOX(&kerneldna::conv_backward_op<kerneldna::cuda::native_conv_backward>));
#endif
}

#endif
