#include "plain_conv.h"

#include "box.h"

#include <torch/csrc/stable/ops.h>

#include <array>

namespace kerneldna {
namespace {

using torch::stable::reshape;
using torch::stable::detail::from;
using torch::stable::detail::to;
using Ints = std::vector<int64_t>;

template <class... Arguments> Tensor call_aten(const char *op, const char *overload, const Arguments &...arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{from(arguments)...};
  if (torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    throw std::runtime_error(torch_error(std::string(op) + " failed"));
  return to<Tensor>(stack[0]);
}

Tensor mul(const Tensor &a, const Tensor &b) { return call_aten("aten::mul", "Tensor", a, b); }

Tensor convolution(const Tensor &input, const Tensor &weight, const Ints &stride, const Ints &padding,
                   const Ints &dilation, int64_t groups) {
  return call_aten("aten::convolution", "", input, weight, OptionalTensor{}, stride, padding, dilation, false,
                   Ints{0, 0}, groups);
}

// [N, C] or [C] as factors, or terms, of [N, C, H, W].
Tensor by_channel(const Tensor &values) {
  const int64_t batch = values.dim() == 2 ? values.size(0) : 1;
  return reshape(values, {batch, values.size(values.dim() - 1), 1, 1});
}

} // namespace

Tensor plain_conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                  const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
                  const OptionalTensor &spatial_attention, const Ints &stride, const Ints &padding,
                  const Ints &dilation, int64_t groups) {
  const int64_t batch = input.size(0);
  Tensor x = channel_attention ? mul(input, by_channel(*channel_attention)) : input;
  Tensor y;
  if (spatial_attention && spatial_attention->dim() == 3 && batch > 0) {
    const int64_t filters = weight.size(0), channels = weight.size(1), kh = weight.size(2), kw = weight.size(3);
    const Tensor kernels = mul(torch::stable::unsqueeze(weight, 0), reshape(*spatial_attention, {batch, 1, 1, kh, kw}));
    x = reshape(x, {1, batch * input.size(1), input.size(2), input.size(3)});
    y = convolution(x, reshape(kernels, {batch * filters, channels, kh, kw}), stride, padding, dilation,
                    batch * groups);
    y = reshape(y, {batch, filters, y.size(2), y.size(3)});
  } else {
    const bool folds = spatial_attention && spatial_attention->dim() == 2;
    y = convolution(x, folds ? mul(weight, *spatial_attention) : weight, stride, padding, dilation, groups);
  }
  if (filter_attention)
    y = mul(y, by_channel(*filter_attention));
  if (bias)
    y = torch::stable::subtract(y, by_channel(*bias), -1); // the stable ABI adds so
  return is_channels_last(input) ? torch::stable::contiguous(y, torch::headeronly::MemoryFormat::ChannelsLast) : y;
}

} // namespace kerneldna

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CompositeExplicitAutograd, m) {
  m.impl("_plain_conv", KERNELDNA_BOX(&kerneldna::plain_conv));
}
