#include "selection.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <stdexcept>

#include "cpu/host.h"
#ifdef KERNELDNA_WITH_CUDA
#include "cuda/refusal.h"
#endif

namespace kerneldna {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::detail::from;
using torch::stable::detail::to;

constexpr size_t kWords = (kCallClasses + 63) / 64;
std::array<std::atomic<uint64_t>, kWords> classes_of_python{};

void call_python(const char *op, StableIValue *stack) {
  if (torch_call_dispatcher(op, "", stack, TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    throw std::runtime_error(torch_error(std::string(op) + " failed"));
}

int class_number(const ConvShape &shape, ScalarType type, bool spatial_per_sample, bool channels_last) {
  int dtype = 0;
  switch (type) {
  case ScalarType::Float:
    dtype = 1;
    break;
  case ScalarType::Half:
    dtype = 2;
    break;
  case ScalarType::BFloat16:
    dtype = 3;
    break;
  default:
    break;
  }
  int kind = 0;
  if (shape.groups > 1)
    kind = shape.groups == shape.in_channels ? 2 : 3;
  else if (shape.kernel_height == 1 && shape.kernel_width == 1)
    kind = 1;
  const bool large_map = shape.out_height * shape.out_width >= kLargeMap;
  return dtype + 4 * kind + 16 * spatial_per_sample + 32 * channels_last + 64 * large_map;
}

// For Python, which may ask of tensors that no kernel of this library could read: of a call that has been checked.
int64_t class_of_sizes(const std::vector<int64_t> &input, const std::vector<int64_t> &weight,
                       const std::vector<int64_t> &stride, const std::vector<int64_t> &padding,
                       const std::vector<int64_t> &dilation, int64_t groups, ScalarType dtype, bool spatial_per_sample,
                       bool channels_last) {
  return class_number(shape_of_sizes(input, weight, stride, padding, dilation, groups), dtype, spatial_per_sample,
                      channels_last);
}

} // namespace

void select_in_python(const std::vector<int64_t> &classes) {
  std::array<uint64_t, kWords> words{};
  for (const int64_t number : classes) {
    check(number >= 0 && number < kCallClasses, "kerneldna::_select_in_python: classes must be between 0 and ",
          kCallClasses - 1, ", got ", number);
    words[number / 64] |= uint64_t(1) << number % 64;
  }
  for (size_t i = 0; i < words.size(); ++i)
    classes_of_python[i].store(words[i], std::memory_order_relaxed);
}

bool selected_in_python(int call_class) {
  return classes_of_python[call_class / 64].load(std::memory_order_relaxed) >> call_class % 64 & 1;
}

int call_class(const ConvShape &shape, const Tensor &input, const OptionalTensor &spatial_attention) {
  const bool per_sample = spatial_attention && spatial_attention->dim() == 3;
  return class_number(shape, input.scalar_type(), per_sample, is_channels_last(input)) + kConvClasses * input.is_cuda();
}

int squeeze_excite_class(const Tensor &input) {
  constexpr int on_cpu = 2 * kConvClasses, on_cuda = on_cpu + 1;
  if (!input.is_cuda())
    return on_cpu;
#ifdef KERNELDNA_WITH_CUDA
  if (!cuda::refusal(input.get_device_index()).empty())
    return on_cuda + 1;
#endif
  return on_cuda;
}

Tensor selected_conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                     const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
                     const OptionalTensor &spatial_attention, const std::vector<int64_t> &stride,
                     const std::vector<int64_t> &padding, const std::vector<int64_t> &dilation, int64_t groups) {
  std::array<StableIValue, 10> stack{from(input),
                                     from(weight),
                                     from(bias),
                                     from(channel_attention),
                                     from(filter_attention),
                                     from(spatial_attention),
                                     from(stride),
                                     from(padding),
                                     from(dilation),
                                     from(groups)};
  call_python("kerneldna::_selected_conv", stack.data());
  return to<Tensor>(stack[0]);
}

Gradients selected_conv_backward(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                                 const OptionalTensor &bias, const OptionalTensor &channel_attention,
                                 const OptionalTensor &filter_attention, const OptionalTensor &spatial_attention,
                                 const std::vector<int64_t> &stride, const std::vector<int64_t> &padding,
                                 const std::vector<int64_t> &dilation, int64_t groups,
                                 const std::vector<bool> &output_mask) {
  std::array<bool, 6> mask;
  std::copy(output_mask.begin(), output_mask.end(), mask.begin());
  std::array<StableIValue, 12> stack{from(grad_output),
                                     from(input),
                                     from(weight),
                                     from(bias),
                                     from(channel_attention),
                                     from(filter_attention),
                                     from(spatial_attention),
                                     from(stride),
                                     from(padding),
                                     from(dilation),
                                     from(groups),
                                     from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask.data(), mask.size()))};
  call_python("kerneldna::_selected_conv_backward", stack.data());
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2]),
          to<Tensor>(stack[3]), to<Tensor>(stack[4]), to<Tensor>(stack[5])};
}

Tensor selected_squeeze_excite(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias,
                               const Tensor &fc2_weight, const OptionalTensor &fc2_bias) {
  std::array<StableIValue, 5> stack{from(input), from(fc1_weight), from(fc1_bias), from(fc2_weight), from(fc2_bias)};
  call_python("kerneldna::_selected_squeeze_excite", stack.data());
  return to<Tensor>(stack[0]);
}

std::string build_info() {
  std::string info = "cpu_vector=" + std::string(cpu::kernels().name);
#ifdef KERNELDNA_WITH_CUDA
  info += ";cuda=" KERNELDNA_CUDA_VERSION ";cuda_archs=" KERNELDNA_CUDA_ARCHS;
#endif
  return info;
}

} // namespace kerneldna

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CompositeExplicitAutograd, m) {
  m.impl("_conv_class", TORCH_BOX(&kerneldna::class_of_sizes));
}
