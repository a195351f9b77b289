#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../conv_shape.h"
#include "../selection.h"

namespace kerneldna::cpu {
namespace {

using Ints = std::vector<int64_t>;

Tensor selected_conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                     const OptionalTensor &channel, const OptionalTensor &filter, const OptionalTensor &spatial,
                     const Ints &stride, const Ints &padding, const Ints &dilation, int64_t groups) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 10> stack{from(input),   from(weight), from(bias),    from(channel),  from(filter),
                                     from(spatial), from(stride), from(padding), from(dilation), from(groups)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("kerneldna::_selected_conv", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

Tensor conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias, const OptionalTensor &channel,
            const OptionalTensor &filter, const OptionalTensor &spatial, const Ints &stride, const Ints &padding,
            const Ints &dilation, int64_t groups) {
  check_conv("kerneldna::conv", input, weight, bias, channel, filter, spatial, stride, padding, dilation, groups);
  return selected_conv(input, weight, bias, channel, filter, spatial, stride, padding, dilation, groups);
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients conv_backward(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                        const OptionalTensor &bias, const OptionalTensor &channel, const OptionalTensor &filter,
                        const OptionalTensor &spatial, const Ints &stride, const Ints &padding, const Ints &dilation,
                        int64_t groups, const std::vector<bool> &mask) {
  auto shape = check_conv("kerneldna::conv_backward", input, weight, bias, channel, filter, spatial, stride, padding,
                          dilation, groups);
  check_grad_output("kerneldna::conv_backward", grad_output, input, shape);
  std::array<bool, 6> wanted;
  std::copy(mask.begin(), mask.end(), wanted.begin());
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 12> stack{
      from(grad_output), from(input),
      from(weight),      from(bias),
      from(channel),     from(filter),
      from(spatial),     from(stride),
      from(padding),     from(dilation),
      from(groups),      from(torch::headeronly::HeaderOnlyArrayRef<bool>(wanted.data(), wanted.size()))};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("kerneldna::_selected_conv_backward", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2]),
          to<Tensor>(stack[3]), to<Tensor>(stack[4]), to<Tensor>(stack[5])};
}

} // namespace
} // namespace kerneldna::cpu

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CPU, m) {
  m.impl("conv", TORCH_BOX(&kerneldna::cpu::conv));
  m.impl("conv_backward", TORCH_BOX(&kerneldna::cpu::conv_backward));
}
