// The arguments of kerneldna::conv, checked once for every device, and the sizes that follow from them.
#pragma once

#include <array>
#include <tuple>
#include <vector>

#include "checks.h"

namespace kerneldna {

// Of input, weight, bias and the three attentions.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

struct ConvShape {
  int64_t batch, in_channels, in_height, in_width;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t out_height, out_width;
  std::array<int64_t, 2> stride, padding, dilation;
  int64_t groups;
};

// Of the output along an axis; 0 where the kernel does not fit into the input.
int64_t out_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation);

// Of a call that has been checked.
ConvShape shape_of_sizes(const std::vector<int64_t> &input, const std::vector<int64_t> &weight,
                         const std::vector<int64_t> &stride, const std::vector<int64_t> &padding,
                         const std::vector<int64_t> &dilation, int64_t groups);

// Throws one sentence that names the argument, what was expected and what came.
ConvShape check_conv(const char *op, const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                     const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
                     const OptionalTensor &spatial_attention, const std::vector<int64_t> &stride,
                     const std::vector<int64_t> &padding, const std::vector<int64_t> &dilation, int64_t groups);

// The same for kerneldna::conv_backward.
ConvShape check_conv_backward(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                              const OptionalTensor &bias, const OptionalTensor &channel_attention,
                              const OptionalTensor &filter_attention, const OptionalTensor &spatial_attention,
                              const std::vector<int64_t> &stride, const std::vector<int64_t> &padding,
                              const std::vector<int64_t> &dilation, int64_t groups,
                              const std::vector<bool> &output_mask);

} // namespace kerneldna
