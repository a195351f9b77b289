// Compiled into every build: Python asks before it chooses a backend.
#include "conv_refusal.h"

#include "kernels/tuning.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace kerneldna::cuda {
namespace {

constexpr int64_t kLargestGridAxis = 65535;

template <typename... Parts> std::string clause(const Parts &...parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// What the kernels count in 32 bits.
std::string too_large(const ConvShape &shape) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const int64_t taps = shape.taps();
  const std::pair<const char *, int64_t> sizes[] = {
      {"elements in a sample", std::max(shape.in_channels * shape.in_height * shape.in_width,
                                        shape.out_channels * shape.out_height * shape.out_width)},
      // Counted as if its filters filled a tile: a step along K passes over as many at once.
      {"elements in the weight",
       std::max<int64_t>(shape.out_channels, kLeastTileChannels) * (shape.in_channels / shape.groups) * taps},
      {"pixels in a row or column of the padded input",
       std::max(shape.in_height + 2 * shape.padding[0], shape.in_width + 2 * shape.padding[1])},
      {"pixels of stride or dilation",
       std::max({shape.stride[0], shape.stride[1], shape.dilation[0], shape.dilation[1]})}};
  for (const auto &[what, size] : sizes)
    if (size > kMost)
      return clause(size, " ", what, ", its kernels count to ", kMost);
  return "";
}

std::string of_depthwise(const ConvShape &shape) {
  if (shape.out_channels != shape.in_channels)
    return clause("its depthwise kernels make one output channel of each input channel, not ",
                  shape.out_channels / shape.in_channels);
  if (shape.dilation[0] != 1 || shape.dilation[1] != 1)
    return "its depthwise kernels are not dilated";
  const int64_t width = shape.kernel_width, step = shape.stride[1];
  const bool is_known = ((width == 3 || width == 5) && step <= 2) || (width == 7 && step == 1);
  if (!is_known || shape.kernel_height > 8)
    return clause("its depthwise kernels are 3 or 5 wide with a stride of 1 or 2, or 7 wide with a stride of 1, and at "
                  "most 8 high, not ",
                  bracketed({shape.kernel_height, width}), " with a stride of ", step);
  return "";
}

std::string of_groups(const ConvShape &shape, int64_t channels, int64_t filters) {
  if (shape.groups > 1 && std::min(channels, filters) < kLeastGroupChannels)
    return clause("a group has ", channels, " channels and ", filters, " filters, and below ", kLeastGroupChannels,
                  " of either its tiles of ", kLeastTileChannels, " are mostly empty");
  const int64_t blocks = shape.groups * ((filters + kLeastTileChannels - 1) / kLeastTileChannels);
  if (blocks > kLargestGridAxis)
    return clause("groups times blocks of ", kLeastTileChannels, " filters is ", blocks, ", over ", kLargestGridAxis);
  return "";
}

} // namespace

void check_taken(const ConvCall &call) {
  const std::string reason = conv_refusal(call);
  check(reason.empty(), call.op, ": the CUDA kernels do not take this call: ", reason);
}

std::string conv_refusal(const ConvCall &call) {
  if (call.kernels != Kernels::shared || call.bias_kind == Kind::per_sample)
    return "its kernels read one weight and one bias for all samples";
  return conv_refusal(call.shape, call.input.element_size());
}

std::string conv_refusal(const ConvShape &shape, int64_t element_bytes) {
  if (element_bytes == 8)
    return "it has no kernel for float64";
  if (element_bytes == 4 && !shape.depthwise())
    return "its kernels for float32 are depthwise ones";
  if (std::string reason = too_large(shape); !reason.empty())
    return reason;
  // In a depthwise convolution the vectors are of channels of different groups.
  const int64_t together = shape.depthwise() ? 1 : shape.groups, vector = 16 / element_bytes;
  const int64_t channels = shape.in_channels / together, filters = shape.out_channels / together;
  if (channels % vector || filters % vector)
    return clause("it reads ", vector, " channels at a time, and ", together > 1 ? "a group" : "the call", " has ",
                  channels, " channels and ", filters, " filters");
  return shape.depthwise() ? of_depthwise(shape) : of_groups(shape, channels, filters);
}

#ifndef KERNELDNA_HOST_EXECUTION
namespace {

// The sizes of a call that has been checked.
std::string conv_refusal_of_sizes(const std::vector<int64_t> &input, const std::vector<int64_t> &weight,
                                  const std::vector<int64_t> &stride, const std::vector<int64_t> &padding,
                                  const std::vector<int64_t> &dilation, int64_t groups, int64_t element_bytes) {
  return conv_refusal(ConvShape::of(input, weight, stride, padding, dilation, groups), element_bytes);
}

} // namespace
#endif

} // namespace kerneldna::cuda

#ifndef KERNELDNA_HOST_EXECUTION
STABLE_TORCH_LIBRARY_IMPL(kerneldna, CompositeExplicitAutograd, m) {
  m.impl("_cuda_conv_refusal", TORCH_BOX(&kerneldna::cuda::conv_refusal_of_sizes));
}
#endif
