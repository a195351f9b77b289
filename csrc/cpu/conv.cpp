// kerneldna::conv on the CPU.
#include "../box.h"
#include "../selection.h"
#include "plan.h"

namespace kerneldna::cpu {
namespace {

constexpr const char *kOp = "kerneldna::conv";

Tensor run(const ConvShape &shape, const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
           const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
           const OptionalTensor &spatial_attention) {
  Tensor output =
      empty_image({shape.batch, shape.out_channels, shape.out_height, shape.out_width}, input, is_channels_last(input));
  if (shape.batch == 0)
    return output;

  const ScalarType dtype = input.scalar_type();
  const Tensor source = addressable(input), parent = as_compute(weight);
  const int64_t taps = shape.kernel_height * shape.kernel_width;
  const Factors channel = factors_of(channel_attention, shape.in_channels, 1, input);
  const Factors filter = factors_of(filter_attention, shape.out_channels, 1, input);
  const Factors spatial = factors_of(spatial_attention, taps, 2, input);
  Tensor shift;
  if (bias)
    shift = as_contiguous(as_compute(*bias));

  const std::vector<Tap> tap_list = taps_of(shape, parent);
  ConvParams conv{};
  conv.batch = shape.batch;
  conv.groups = shape.groups;
  conv.in_channels = shape.in_channels / shape.groups;
  conv.out_channels = shape.out_channels / shape.groups;
  conv.source = image_of(source);
  conv.target = image_of(output);
  conv.lattice_height = shape.out_height;
  conv.lattice_width = shape.out_width;
  for (int d = 0; d < 2; ++d) {
    conv.source_step[d] = shape.stride[d];
    conv.target_step[d] = 1;
    conv.target_origin[d] = 0;
  }
  conv.taps = tap_list.data();
  conv.tap_count = taps;
  conv.weight = parent.data_ptr();
  conv.weight_group = conv.out_channels * parent.stride(0);
  conv.weight_row = parent.stride(0);
  conv.weight_channel = parent.stride(1);
  conv.in_scale = channel.scale;
  conv.tap_scale = spatial.scale;
  conv.out_scale = filter.scale;
  conv.bias = bias ? shift.data_ptr() : nullptr;
  plan_tiles(conv, dtype);
  run_conv(conv, dtype);
  return output;
}

Tensor native_conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                   const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
                   const OptionalTensor &spatial_attention, const Ints &stride, const Ints &padding,
                   const Ints &dilation, int64_t groups) {
  return run(check_conv(kOp, input, weight, bias, channel_attention, filter_attention, spatial_attention, stride,
                        padding, dilation, groups),
             input, weight, bias, channel_attention, filter_attention, spatial_attention);
}

Tensor conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
            const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
            const OptionalTensor &spatial_attention, const Ints &stride, const Ints &padding, const Ints &dilation,
            int64_t groups) {
  const ConvShape shape = check_conv(kOp, input, weight, bias, channel_attention, filter_attention, spatial_attention,
                                     stride, padding, dilation, groups);
  if (selected_in_python(call_class(shape, input, spatial_attention)))
    return selected_conv(input, weight, bias, channel_attention, filter_attention, spatial_attention, stride, padding,
                         dilation, groups);
  return run(shape, input, weight, bias, channel_attention, filter_attention, spatial_attention);
}

} // namespace
} // namespace kerneldna::cpu

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CPU, m) {
  m.impl("conv", KERNELDNA_BOX(&kerneldna::cpu::conv));
  m.impl("_native_conv", KERNELDNA_BOX(&kerneldna::cpu::native_conv));
}
