// kerneldna::conv on the CPU.
#include "../box.h"
#include "../selection.h"
#include "plan.h"
#include "sample_kernels.h"

namespace kerneldna::cpu {
namespace {

// What the kernels read of a call, of all its samples or of one.
struct Operands {
  ConvShape shape;
  ScalarType dtype;
  Tensor source, target;
  Scale channel, filter, spatial, bias;
};

void convolve(const Operands &operands, const SampleKernels::Weight &kernels) {
  const ConvShape &shape = operands.shape;
  const Tensor &weight = kernels.tensor;
  const int leading = int(weight.dim()) - 4;
  const std::vector<Tap> tap_list = taps_of(shape, weight);
  ConvParams conv{};
  conv.batch = shape.batch;
  conv.groups = shape.groups;
  conv.in_channels = shape.in_channels / shape.groups;
  conv.out_channels = shape.out_channels / shape.groups;
  conv.source = image_of(operands.source);
  conv.target = image_of(operands.target);
  conv.lattice_height = shape.out_height;
  conv.lattice_width = shape.out_width;
  for (int d = 0; d < 2; ++d) {
    conv.source_step[d] = shape.stride[d];
    conv.target_step[d] = 1;
    conv.target_origin[d] = 0;
  }
  conv.taps = tap_list.data();
  conv.tap_count = shape.taps();
  conv.weight = weight.data_ptr();
  conv.weight_sample = kernels.given ? weight.stride(0) : 0;
  conv.weight_row = weight.stride(leading);
  conv.weight_channel = weight.stride(leading + 1);
  conv.weight_group = conv.out_channels * conv.weight_row;
  conv.mix = kernels.mix;
  conv.kernels = kernels.parents;
  conv.weight_kernel = kernels.parents ? weight.stride(0) : 0;
  conv.in_scale = operands.channel;
  conv.tap_scale = operands.spatial;
  conv.out_scale = operands.filter;
  conv.bias = operands.bias;
  if (!fits_layout(conv, operands.dtype)) {
    Operands last = operands;
    last.source = torch::stable::contiguous(operands.source, torch::headeronly::MemoryFormat::ChannelsLast);
    last.target = empty_image(shape.output_sizes(), operands.source, true);
    convolve(last, kernels);
    Tensor target = operands.target;
    torch::stable::copy_(target, last.target);
    return;
  }
  plan_tiles(conv, operands.dtype);
  run_conv(conv, operands.dtype);
}

// One sample after the other, each with one weight.
void convolve_each(const Operands &all, const SampleKernels &kernels) {
  Tensor buffer;
  for (int64_t n = 0; n < all.shape.batch; ++n) {
    Operands one = all;
    one.shape.batch = 1;
    one.source = torch::stable::narrow(one.source, 0, n, 1);
    one.target = torch::stable::narrow(one.target, 0, n, 1);
    for (Scale *scale : {&one.channel, &one.filter, &one.spatial, &one.bias})
      *scale = of_sample(*scale, n, all.dtype);
    convolve(one, {kernels.of(n, buffer)});
  }
}

Tensor native_conv(const ConvCall &call) {
  const ConvShape &shape = call.shape;
  Tensor output = empty_image(shape.output_sizes(), call.input, call.channels_last);
  if (shape.batch == 0)
    return output;

  const Factors channel = factors_of(call.channel_attention, call.channel, shape.in_channels, call.input);
  const Factors filter = factors_of(call.filter_attention, call.filter, shape.out_channels, call.input);
  const Factors spatial = factors_of(call.spatial_attention, call.spatial, shape.taps(), call.input);
  Factors bias;
  if (call.bias)
    bias = factors_of(call.bias, call.bias_kind, shape.out_channels, call.input);
  const Operands operands{shape,         call.dtype(), addressable(call.input), output,
                          channel.scale, filter.scale, spatial.scale,           bias.scale};
  if (call.kernels == Kernels::shared) {
    convolve(operands, {as_compute(call.weight)});
    return output;
  }
  const SampleKernels kernels(call);
  if (kernels.one_by_one())
    convolve_each(operands, kernels);
  else
    convolve(operands, kernels.all());
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
