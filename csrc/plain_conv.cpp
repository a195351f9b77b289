#include "plain_conv.h"

#include "box.h"

#include <torch/csrc/stable/ops.h>

#include <array>

namespace kerneldna {
namespace {

using torch::stable::reshape;
using torch::stable::detail::from;
using torch::stable::detail::to;

template <class... Arguments> Tensor call_aten(const char *op, const char *overload, const Arguments &...arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{from(arguments)...};
  if (torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    throw std::runtime_error(torch_error(std::string(op) + " failed"));
  return to<Tensor>(stack[0]);
}

Tensor mul(const Tensor &a, const Tensor &b) { return call_aten("aten::mul", "Tensor", a, b); }

Tensor convolution(const Tensor &input, const Tensor &weight, const ConvCall &call, int64_t groups) {
  return call_aten("aten::convolution", "", input, weight, OptionalTensor{}, call.stride, call.padding, call.dilation,
                   false, Ints{0, 0}, groups);
}

// The kernel of each sample, [N, C_out, C_in / groups, kh, kw], without spatial attention.
Tensor kernels_of(const ConvCall &call) {
  const ConvShape &shape = call.shape;
  if (call.kernels == Kernels::shared)
    return torch::stable::unsqueeze(call.weight, 0);
  if (call.kernels == Kernels::per_sample)
    return call.weight;
  const int64_t each = shape.out_channels * (shape.in_channels / shape.groups) * shape.taps();
  return reshape(
      torch::stable::matmul(*call.kernel_attention, reshape(call.weight, {call.weight.size(0), each})),
      {shape.batch, shape.out_channels, shape.in_channels / shape.groups, shape.kernel_height, shape.kernel_width});
}

// [N, C] or [C] as factors, or terms, of [N, C, H, W].
Tensor by_channel(const Tensor &values) {
  const int64_t batch = values.dim() == 2 ? values.size(0) : 1;
  return reshape(values, {batch, values.size(values.dim() - 1), 1, 1});
}

} // namespace

Tensor plain_conv(const ConvCall &call) {
  const ConvShape &shape = call.shape;
  Tensor x = call.channel_attention ? mul(call.input, by_channel(*call.channel_attention)) : call.input;
  Tensor y;
  if (shape.batch == 0) {
    y = torch::stable::new_empty(call.input, shape.output_sizes());
  } else if (call.spatial == Kind::per_sample || call.kernels != Kernels::shared) {
    const int64_t batch = shape.batch, filters = shape.out_channels, channels = shape.in_channels / shape.groups;
    const int64_t kh = shape.kernel_height, kw = shape.kernel_width;
    Tensor kernels = kernels_of(call);
    if (call.spatial_attention)
      kernels =
          mul(kernels, reshape(*call.spatial_attention, {call.spatial == Kind::per_sample ? batch : 1, 1, 1, kh, kw}));
    x = reshape(x, {1, batch * shape.in_channels, shape.in_height, shape.in_width});
    y = convolution(x, reshape(kernels, {batch * filters, channels, kh, kw}), call, batch * shape.groups);
    y = reshape(y, {batch, filters, shape.out_height, shape.out_width});
  } else {
    const bool folds = call.spatial == Kind::is_static;
    y = convolution(x, folds ? mul(call.weight, *call.spatial_attention) : call.weight, call, shape.groups);
  }
  if (call.filter_attention)
    y = mul(y, by_channel(*call.filter_attention));
  if (call.bias)
    y = torch::stable::subtract(y, by_channel(*call.bias), -1); // the stable ABI adds so
  return call.channels_last ? torch::stable::contiguous(y, torch::headeronly::MemoryFormat::ChannelsLast) : y;
}

} // namespace kerneldna

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CompositeExplicitAutograd, m) {
  m.impl("_plain_conv", KERNELDNA_BOX(&kerneldna::conv_op<kerneldna::plain_conv>));
}
