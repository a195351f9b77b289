// kerneldna::conv on the CPU.
#include "../box.h"
#include "../selection.h"
#include "plan.h"
#include "sample_kernels.h"

namespace kerneldna::cpu {
namespace {

// What the kernels read of a call, of all its samples or of one; they all have one weight but in a depthwise call.
struct Operands {
  ConvShape shape;
  ScalarType dtype;
  Image source, target;
  Scale channel, filter, spatial, bias;
};

void convolve(const Operands &operands, const Tensor &weight) {
  const ConvShape &shape = operands.shape;
  const int leading = int(weight.dim()) - 4;
  const std::vector<Tap> tap_list = taps_of(shape, weight);
  ConvParams conv{};
  conv.batch = shape.batch;
  conv.groups = shape.groups;
  conv.in_channels = shape.in_channels / shape.groups;
  conv.out_channels = shape.out_channels / shape.groups;
  conv.source = operands.source;
  conv.target = operands.target;
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
  conv.weight_sample = leading ? weight.stride(0) : 0;
  conv.weight_row = weight.stride(leading);
  conv.weight_channel = weight.stride(leading + 1);
  conv.weight_group = conv.out_channels * conv.weight_row;
  conv.in_scale = operands.channel;
  conv.tap_scale = operands.spatial;
  conv.out_scale = operands.filter;
  conv.bias = operands.bias;
  plan_tiles(conv, operands.dtype);
  run_conv(conv, operands.dtype);
}

// One sample after the other, or side by side where that keeps all threads busy.
void convolve_each(const Operands &all, const SampleKernels &kernels) {
  const int64_t threads = torch::stable::get_num_threads(), batch = all.shape.batch;
  const auto run = [&](int64_t begin, int64_t end) {
    SampleKernels::Buffer buffer;
    for (int64_t n = begin; n < end; ++n) {
      Operands one = all;
      one.shape.batch = 1;
      one.source = of_sample(all.source, n, all.dtype);
      one.target = of_sample(all.target, n, all.dtype);
      for (Scale *scale : {&one.channel, &one.filter, &one.spatial, &one.bias})
        *scale = of_sample(*scale, n, all.dtype);
      convolve(one, kernels.of(n, buffer));
    }
  };
  if (batch % threads == 0 || batch >= 4 * threads)
    torch::stable::parallel_for(0, batch, 1, run);
  else
    run(0, batch);
}

Tensor native_conv(const ConvCall &call) {
  const ConvShape &shape = call.shape;
  Tensor output = empty_image(shape.output_sizes(), call.input, call.channels_last);
  if (shape.batch == 0)
    return output;

  const Tensor source = addressable(call.input);
  const Factors channel = factors_of(call.channel_attention, call.channel, shape.in_channels, call.input);
  const Factors filter = factors_of(call.filter_attention, call.filter, shape.out_channels, call.input);
  const Factors spatial = factors_of(call.spatial_attention, call.spatial, shape.taps(), call.input);
  Factors bias{};
  if (call.bias)
    bias = factors_of(call.bias, call.bias_kind, shape.out_channels, call.input);
  const Operands operands{shape,         call.dtype(), image_of(source), image_of(output),
                          channel.scale, filter.scale, spatial.scale,    bias.scale};
  if (call.kernels == Kernels::shared)
    convolve(operands, as_compute(call.weight));
  else if (shape.depthwise())
    convolve(operands, SampleKernels(call).all());
  else
    convolve_each(operands, SampleKernels(call));
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
