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

constexpr size_t kConvArguments = 11;
constexpr size_t kWords = (kCallClasses + 63) / 64;
std::array<std::atomic<uint64_t>, kWords> classes_of_python{};

// The arguments of conv, which those of conv_backward hold too.
void push(StableIValue *stack, const ConvCall &call) {
  const StableIValue values[] = {from(call.input),
                                 from(call.weight),
                                 from(call.bias),
                                 from(call.channel_attention),
                                 from(call.filter_attention),
                                 from(call.spatial_attention),
                                 from(call.stride),
                                 from(call.padding),
                                 from(call.dilation),
                                 from(call.shape.groups),
                                 from(call.kernel_attention)};
  std::copy(std::begin(values), std::end(values), stack);
}

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
  const int kind = shape.depthwise() ? 2 : shape.pointwise() ? 1 : shape.groups > 1 ? 3 : 0;
  const bool large_map = shape.out_height * shape.out_width >= kLargeMap;
  return dtype + 4 * kind + 16 * spatial_per_sample + 32 * channels_last + 64 * large_map;
}

// For Python, which may ask of tensors that no kernel of this library could read: of a call that has been checked.
int64_t class_of_sizes(const std::vector<int64_t> &input, const std::vector<int64_t> &weight,
                       const std::vector<int64_t> &stride, const std::vector<int64_t> &padding,
                       const std::vector<int64_t> &dilation, int64_t groups, ScalarType dtype, bool spatial_per_sample,
                       bool channels_last) {
  return class_number(ConvShape::of(input, weight, stride, padding, dilation, groups), dtype, spatial_per_sample,
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

int call_class(const ConvCall &call) {
  if (call.kernels != Kernels::shared)
    return 2 * kConvClasses + kSqueezeExciteClasses + call.input.is_cuda();
  return class_number(call.shape, call.dtype(), call.spatial == Kind::per_sample, call.channels_last) +
         kConvClasses * call.input.is_cuda();
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

Tensor selected_conv(const ConvCall &call) {
  std::array<StableIValue, kConvArguments> stack;
  push(stack.data(), call);
  call_python("kerneldna::_selected_conv", stack.data());
  return to<Tensor>(stack[0]);
}

Gradients selected_conv_backward(const ConvBackwardCall &call) {
  std::array<StableIValue, kConvArguments + 2> stack{from(call.grad_output)};
  push(stack.data() + 1, call);
  stack.back() = from(torch::headeronly::HeaderOnlyArrayRef<bool>(call.output_mask.data(), call.output_mask.size()));
  call_python("kerneldna::_selected_conv_backward", stack.data());
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2]), to<Tensor>(stack[3]),
          to<Tensor>(stack[4]), to<Tensor>(stack[5]), to<Tensor>(stack[6])};
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
