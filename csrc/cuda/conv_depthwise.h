// From the tensors of a depthwise call (groups = C_in) to its kernels (kernels/conv_depthwise.h).
#pragma once

#include "../selection.h"
#include "host.h"

namespace kerneldna::cuda {

Tensor depthwise_forward(const ConvShape &shape, const Tensor &input, const Tensor &weight, OptionalTensor bias,
                         OptionalTensor channel_attention, OptionalTensor filter_attention,
                         OptionalTensor spatial_attention);

// The gradients that output_mask asks for, in the order of kerneldna::conv_backward, and empty tensors for the others.
Gradients depthwise_backward(const ConvShape &shape, const Tensor &grad_output, const Tensor &input,
                             const Tensor &weight, OptionalTensor channel_attention, OptionalTensor filter_attention,
                             OptionalTensor spatial_attention, const std::vector<bool> &output_mask);

} // namespace kerneldna::cuda
