// A call of kerneldna::conv or kerneldna::conv_backward: the arguments, checked once where an op is entered, and what
// follows from them. Everything below takes the call, and decides none of it anew.
#pragma once

#include <array>
#include <tuple>
#include <vector>

#include "checks.h"

namespace kerneldna {

using Ints = std::vector<int64_t>;

// The sizes of a call, and what is decided by them alone.
struct ConvShape {
  int64_t batch, in_channels, in_height, in_width;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t out_height, out_width;
  std::array<int64_t, 2> stride, padding, dilation;
  int64_t groups;

  // Of a call that has been checked.
  static ConvShape of(const Ints &input, const Ints &weight, const Ints &stride, const Ints &padding,
                      const Ints &dilation, int64_t groups);

  bool depthwise() const { return groups > 1 && groups == in_channels; } // a channel a group, one filter or more
  bool pointwise() const { return groups == 1 && kernel_height == 1 && kernel_width == 1; }
  int64_t taps() const { return kernel_height * kernel_width; }
  std::array<int64_t, 4> input_sizes() const { return {batch, in_channels, in_height, in_width}; }
  std::array<int64_t, 4> output_sizes() const { return {batch, out_channels, out_height, out_width}; }
};

// Of an attention, or the bias.
enum class Kind { absent, is_static, per_sample };

// One weight for all samples, one for each, or several of which each sample has its own mixture.
enum class Kernels { shared, per_sample, mixed };

// It borrows the arguments of the op, which outlive it.
struct ConvCall {
  // Throws one sentence that names the argument, what was expected and what came.
  ConvCall(const char *op, const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
           const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
           const OptionalTensor &spatial_attention, const Ints &stride, const Ints &padding, const Ints &dilation,
           int64_t groups, const OptionalTensor &kernel_attention);

  torch::headeronly::ScalarType dtype() const { return input.scalar_type(); }

  const char *op;
  const Tensor &input, &weight;
  const OptionalTensor &bias, &channel_attention, &filter_attention, &spatial_attention, &kernel_attention;
  const Ints &stride, &padding, &dilation; // as they came; shape has what kernels count with
  ConvShape shape;
  Kind channel, filter, spatial, bias_kind;
  Kernels kernels;
  bool channels_last; // the input, and so the output and the input's gradient
};

// Of input, weight, bias and the four attentions.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
constexpr size_t kGradients = std::tuple_size_v<Gradients>;

struct ConvBackwardCall : ConvCall {
  // Throws as ConvCall does, also where the mask asks for the gradient of an argument that is absent. A mask without
  // the last value does not ask for the gradient of kernel_attention.
  ConvBackwardCall(const Tensor &grad_output, const ConvCall &call, const std::vector<bool> &output_mask);

  bool wants_input() const { return output_mask[0]; }
  bool wants_weight() const { return output_mask[1]; }
  bool wants_bias() const { return output_mask[2]; }
  bool wants_channel() const { return output_mask[3]; }
  bool wants_filter() const { return output_mask[4]; }
  bool wants_spatial() const { return output_mask[5]; }
  bool wants_kernel() const { return output_mask[6]; }

  const Tensor &grad_output;
  std::array<bool, kGradients> output_mask;
};

// What the dispatcher calls: the op with its loose arguments, carried out by Run.
template <Tensor (*Run)(const ConvCall &)>
Tensor conv_op(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
               const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
               const OptionalTensor &spatial_attention, const Ints &stride, const Ints &padding, const Ints &dilation,
               int64_t groups, const OptionalTensor &kernel_attention) {
  return Run({"kerneldna::conv", input, weight, bias, channel_attention, filter_attention, spatial_attention, stride,
              padding, dilation, groups, kernel_attention});
}

template <Gradients (*Run)(const ConvBackwardCall &)>
Gradients conv_backward_op(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                           const OptionalTensor &bias, const OptionalTensor &channel_attention,
                           const OptionalTensor &filter_attention, const OptionalTensor &spatial_attention,
                           const Ints &stride, const Ints &padding, const Ints &dilation, int64_t groups,
                           const OptionalTensor &kernel_attention, const std::vector<bool> &output_mask) {
  return Run({grad_output,
              {"kerneldna::conv_backward", input, weight, bias, channel_attention, filter_attention, spatial_attention,
               stride, padding, dilation, groups, kernel_attention},
              output_mask});
}

} // namespace kerneldna
