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

constexpr const char *kOp = "kerneldna::conv_backward";

Tensor grad_input(const ConvShape &shape, const Tensor &grad_output, const Tensor &like, const DepthwiseWeight &weight,
                  const Scale &channel, const Scale &filter, const Scale &spatial, Stream stream) {
  const Tensor gradient = empty_image({shape.batch, shape.in_channels, shape.in_height, shape.in_width}, like);
  Depthwise conv{};
  conv.geometry = geometry_of(shape);
  conv.source = image_of(grad_output);
  conv.target = image_of(gradient);
  conv.weight = weight;
  conv.source_scale = filter;
  conv.target_scale = channel;
  conv.spatial = spatial;
  depthwise_conv_transposed(conv, stored_of(like.scalar_type()), stream);
  return in_layout_of(gradient, like);
}

Gradients run(const ConvShape &shape, const Tensor &grad_output, const Tensor &input, const Tensor &weight,
              OptionalTensor channel_attention, OptionalTensor filter_attention, OptionalTensor spatial_attention,
              const std::vector<bool> &output_mask) {
  check_taken(kOp, shape, input);
  check(is_depthwise(shape), kOp, ": the CUDA kernels make gradients of depthwise convolutions alone");
  const ScalarType dtype = input.scalar_type();
  const StreamGuard guard(input);
  const Stream stream = guard;
  const Tensor grad = in_vectors(grad_output);
  const Scale channel = scale_of(channel_attention, 1), filter = scale_of(filter_attention, 1),
              spatial = scale_of(spatial_attention, 2);

  const auto nothing = [&] { return empty({0}, dtype, input); };
  const auto like = [&](bool wanted, const OptionalTensor &tensor) {
    return wanted ? torch::stable::empty(tensor->sizes(), dtype, std::nullopt, input.device()) : nothing();
  };
  Gradients gradients{nothing(),
                      like(output_mask[1], weight),
                      nothing(),
                      like(output_mask[3], channel_attention),
                      like(output_mask[4], filter_attention),
                      like(output_mask[5], spatial_attention)};
  if (output_mask[0])
    std::get<0>(gradients) =
        grad_input(shape, grad, input, depthwise_weight_of(weight), channel, filter, spatial, stream);
  if (output_mask[2])
    std::get<2>(gradients) = torch::stable::sum(grad_output, std::array<int64_t, 3>{0, 2, 3});
  if (!output_mask[1] && !output_mask[3] && !output_mask[4] && !output_mask[5])
    return gradients;

  const Tensor source = in_vectors(input);
  const auto target = [](bool wanted, Tensor &gradient) { return wanted ? gradient.mutable_data_ptr() : nullptr; };
  DepthwiseGrads grads{};
  grads.geometry = geometry_of(shape);
  grads.input = image_of(source);
  grads.grad_output = image_of(grad);
  grads.weight = depthwise_weight_of(weight);
  grads.channel = channel;
  grads.filter = filter;
  grads.spatial = spatial;
  grads.channel_per_sample = is_per_sample(channel_attention, 1);
  grads.filter_per_sample = is_per_sample(filter_attention, 1);
  grads.spatial_per_sample = is_per_sample(spatial_attention, 2);
  grads.grad_weight = target(output_mask[1], std::get<1>(gradients));
  grads.grad_channel = target(output_mask[3], std::get<3>(gradients));
  grads.grad_filter = target(output_mask[4], std::get<4>(gradients));
  grads.grad_spatial = target(output_mask[5], std::get<5>(gradients));
  const Stored stored = stored_of(dtype);
  const Tensor workspace = empty({depthwise_workspace(grads, stored, stream.device)}, ScalarType::Float, input);
  grads.workspace = workspace.mutable_data_ptr<float>();
  depthwise_correlation(grads, stored, stream);
  return gradients;
}

Gradients native_conv_backward(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                               const OptionalTensor &bias, const OptionalTensor &channel_attention,
                               const OptionalTensor &filter_attention, const OptionalTensor &spatial_attention,
                               const Ints &stride, const Ints &padding, const Ints &dilation, int64_t groups,
                               const std::vector<bool> &output_mask) {
  return run(check_conv_backward(grad_output, input, weight, bias, channel_attention, filter_attention,
                                 spatial_attention, stride, padding, dilation, groups, output_mask),
             grad_output, input, weight, channel_attention, filter_attention, spatial_attention, output_mask);
}

#ifndef KERNELDNA_HOST_EXECUTION
Gradients conv_backward(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                        const OptionalTensor &bias, const OptionalTensor &channel_attention,
                        const OptionalTensor &filter_attention, const OptionalTensor &spatial_attention,
                        const Ints &stride, const Ints &padding, const Ints &dilation, int64_t groups,
                        const std::vector<bool> &output_mask) {
  const ConvShape shape = check_conv_backward(grad_output, input, weight, bias, channel_attention, filter_attention,
                                              spatial_attention, stride, padding, dilation, groups, output_mask);
  if (selected_in_python(call_class(shape, input, spatial_attention)))
    return selected_conv_backward(grad_output, input, weight, bias, channel_attention, filter_attention,
                                  spatial_attention, stride, padding, dilation, groups, output_mask);
  return run(shape, grad_output, input, weight, channel_attention, filter_attention, spatial_attention, output_mask);
}
#endif

} // namespace
} // namespace kerneldna::cuda

KERNELDNA_CUDA_KERNELS(m) {
#ifdef KERNELDNA_HOST_EXECUTION
  m.impl("conv_backward", KERNELDNA_BOX(&kerneldna::cuda::native_conv_backward));
#else
  m.impl("conv_backward", KERNELDNA_BOX(&kerneldna::cuda::conv_backward));
  m.impl("_native_conv_backward", KERNELDNA_BOX(&kerneldna::cuda::native_conv_backward));
#endif
}

#endif
