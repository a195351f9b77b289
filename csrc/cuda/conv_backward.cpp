// kerneldna::conv_backward on CUDA. What is static has been multiplied into the weight, whose gradient gives theirs:
// conv_weight.h. What is per sample has its gradient from sums over the pixels of tiles: kernels/conv_gemm.h.
#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "conv_depthwise.h"
#include "conv_weight.h"
#include "gemm_call.h"
#include "kernels/attention_sums.h"
#ifndef KERNELDNA_HOST_EXECUTION
#include "../selection.h"
#endif

namespace kerneldna::cuda {
namespace {

constexpr const char *kOp = "kerneldna::conv_backward";

// One call; the images are read in vectors of channels, and the weight has taken in what is static.
struct Call {
  const ConvShape &shape;
  Tensor grad_output, input;
  const void *weight;
  Scale channel, filter, spatial; // per sample
  Stream stream;
};

AttentionSums sums_of(const ConvGemm &call, const ConvGemmPlan &plan) {
  AttentionSums sums{};
  sums.geometry = call.geometry;
  sums.transposed = call.transposed;
  sums.by_tap = call.by_tap;
  sums.sum_rows = plan.sum_rows;
  sums.pixel_sums = call.pixel_sums;
  return sums;
}

Tensor pixel_sums(const ConvGemmPlan &plan, int64_t taps, int64_t channels, const Tensor &like) {
  return empty({plan.sum_slots, taps, channels}, ScalarType::Float, like);
}

// The gradients of the input and, where not null, of the channel attention per sample.
Tensor input_gradient(const Call &of, bool for_input, Tensor *channel_gradient) {
  const ConvShape &shape = of.shape;
  const Stored stored = stored_of(of.input.scalar_type());
  const Tensor gradient =
      empty_image({for_input ? shape.batch : 0, shape.in_channels, shape.in_height, shape.in_width}, of.input);
  ConvGemm call{};
  call.geometry = geometry_of(shape);
  call.transposed = true;
  call.source = image_of(of.grad_output);
  call.weight = of.weight;
  const Tensor factors = scale_source(call, of.filter, of.spatial, of.input, of.stream);
  call.target_scale = of.channel;
  if (for_input)
    call.target = image_of(gradient);
  const ConvGemmPlan plan = plan_conv_gemm(call, math_of(of.input.scalar_type()), limits_of(of.stream.device));
  Tensor sums;
  if (channel_gradient) {
    sums = pixel_sums(plan, 1, shape.in_channels, of.input);
    call.partner = image_of(of.input);
    call.pixel_sums = sums.mutable_data_ptr<float>();
  }
  run_conv_gemm(call, plan, of.input, of.stream);
  if (channel_gradient) {
    AttentionSums of_tiles = sums_of(call, plan);
    of_tiles.by_channel = channel_gradient->mutable_data_ptr();
    attention_sums(of_tiles, stored, of.stream);
  }
  return gradient;
}

// The gradients of the attentions of filters and taps, per sample, where not null.
void filter_and_tap_gradients(const Call &of, Tensor *filter_gradient, Tensor *spatial_gradient) {
  const ConvShape &shape = of.shape;
  ConvGemm call{};
  call.geometry = geometry_of(shape);
  call.by_tap = spatial_gradient != nullptr; // which alone needs the taps apart
  call.source = image_of(of.input);
  call.weight = of.weight;
  const Tensor factors = scale_source(call, of.channel, call.by_tap ? Scale{} : of.spatial, of.input, of.stream);
  call.partner = image_of(of.grad_output);
  const ConvGemmPlan plan = plan_conv_gemm(call, math_of(of.input.scalar_type()), limits_of(of.stream.device));
  const int64_t taps = call.by_tap ? shape.kernel_height * shape.kernel_width : 1;
  const Tensor sums = pixel_sums(plan, taps, shape.out_channels, of.input);
  call.pixel_sums = sums.mutable_data_ptr<float>();
  run_conv_gemm(call, plan, of.input, of.stream);

  AttentionSums of_tiles = sums_of(call, plan);
  if (call.by_tap)
    of_tiles.tap_scale = of.spatial;
  of_tiles.filter_scale = of.filter;
  of_tiles.by_channel = filter_gradient ? filter_gradient->mutable_data_ptr() : nullptr;
  of_tiles.by_tap_sums = spatial_gradient ? spatial_gradient->mutable_data_ptr() : nullptr;
  attention_sums(of_tiles, stored_of(of.input.scalar_type()), of.stream);
}

Gradients run(const ConvShape &shape, const Tensor &grad_output, const Tensor &input, const Tensor &weight,
              const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
              const OptionalTensor &spatial_attention, const std::vector<bool> &output_mask) {
  check_taken(kOp, shape, input);
  if (is_depthwise(shape))
    return depthwise_backward(shape, grad_output, input, weight, channel_attention, filter_attention, spatial_attention,
                              output_mask);
  const ScalarType dtype = input.scalar_type();
  const Queue queue(input);
  Attention channel(channel_attention, 1), filter(filter_attention, 1), spatial(spatial_attention, 2);
  const FixedAttentions fixed{channel.fixed, filter.fixed, spatial.fixed};

  const auto nothing = [&] { return empty({0}, dtype, input); };
  const auto like = [&](const Tensor &attention) {
    return torch::stable::empty(attention.sizes(), dtype, std::nullopt, input.device());
  };
  Tensor grad_input = nothing(), grad_weight = nothing(), grad_bias = nothing();
  Tensor grad_channel = nothing(), grad_filter = nothing(), grad_spatial = nothing();
  if (output_mask[2])
    grad_bias = torch::stable::sum(grad_output, std::array<int64_t, 3>{0, 2, 3});

  const FoldedWeight folded = folded_weight(shape, weight, fixed, queue);
  const Call call{shape,
                  in_vectors(grad_output),
                  in_vectors(input),
                  folded.data,
                  scale_of(channel.per_sample, 1),
                  scale_of(filter.per_sample, 1),
                  scale_of(spatial.per_sample, 2),
                  queue};
  const bool for_channel = output_mask[3] && channel.per_sample, for_filter = output_mask[4] && filter.per_sample,
             for_spatial = output_mask[5] && spatial.per_sample;
  if (for_channel)
    grad_channel = like(*channel.per_sample);
  if (for_filter)
    grad_filter = like(*filter.per_sample);
  if (for_spatial)
    grad_spatial = like(*spatial.per_sample);
  if (output_mask[0] && shape.batch == 0)
    grad_input = torch::stable::new_empty(input, input.sizes());
  if (shape.batch > 0) {
    if (output_mask[0] || for_channel) {
      const Tensor gradient = input_gradient(call, output_mask[0], for_channel ? &grad_channel : nullptr);
      if (output_mask[0])
        grad_input = in_layout_of(gradient, input);
    }
    if (for_filter || for_spatial)
      filter_and_tap_gradients(call, for_filter ? &grad_filter : nullptr, for_spatial ? &grad_spatial : nullptr);
  }

  const WantedOfWeight wanted{output_mask[1], output_mask[3] && channel.fixed, output_mask[4] && filter.fixed,
                              output_mask[5] && spatial.fixed};
  if (wanted.weight || wanted.channel || wanted.filter || wanted.spatial) {
    const WeightGradients of_weight = weight_gradients(shape, call.grad_output, call.input, weight, fixed, call.channel,
                                                       call.filter, call.spatial, wanted, queue);
    if (wanted.weight)
      grad_weight = of_weight.weight;
    if (wanted.channel)
      grad_channel = of_weight.channel;
    if (wanted.filter)
      grad_filter = of_weight.filter;
    if (wanted.spatial)
      grad_spatial = of_weight.spatial;
  }
  return {grad_input, grad_weight, grad_bias, grad_channel, grad_filter, grad_spatial};
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
