// kerneldna::conv on the CPU.
#include "../box.h"
#include "../selection.h"
#include "plan.h"

namespace kerneldna::cpu {
namespace {

Tensor native_conv(const ConvCall &call) {
  const ConvShape &shape = call.shape;
  Tensor output = empty_image(shape.output_sizes(), call.input, call.channels_last);
  if (shape.batch == 0)
    return output;

  const ScalarType dtype = call.dtype();
  const Tensor source = addressable(call.input), parent = as_compute(call.weight);
  const Factors channel = factors_of(call.channel_attention, call.channel, shape.in_channels, call.input);
  const Factors filter = factors_of(call.filter_attention, call.filter, shape.out_channels, call.input);
  const Factors spatial = factors_of(call.spatial_attention, call.spatial, shape.taps(), call.input);
  Tensor bias;
  if (call.bias)
    bias = as_contiguous(as_compute(*call.bias));

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
  conv.tap_count = shape.taps();
  conv.weight = parent.data_ptr();
  conv.weight_group = conv.out_channels * parent.stride(0);
  conv.weight_row = parent.stride(0);
  conv.weight_channel = parent.stride(1);
  conv.in_scale = channel.scale;
  conv.tap_scale = spatial.scale;
  conv.out_scale = filter.scale;
  conv.bias = call.bias ? bias.data_ptr() : nullptr;
  plan_tiles(conv, dtype);
  run_conv(conv, dtype);
  return output;
}

Tensor conv(const ConvCall &call) {
  return selected_in_python(call_class(call)) ? selected_conv(call) : native_conv(call);
}

} // namespace
} // namespace kerneldna::cpu

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CPU, m) {
  m.impl("conv", KERNELDNA_BOX(&kerneldna::conv_op<kerneldna::cpu::conv>));
  m.impl("_native_conv", KERNELDNA_BOX(&kerneldna::conv_op<kerneldna::cpu::native_conv>));
}
