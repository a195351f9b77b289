// Who answers a call of the public op: this library's kernel for the device, or the backend that Python selects.
//
// The library works in a process with no Python, and in one with Python the default path stays free of it: a native
// kernel looks up the class of its call in one 64-bit mask. Python sets the bits of the classes that it wants to decide
// itself (all of them while a backend is chosen explicitly, else those where a table of measured winners names another
// backend), and those calls go on to kerneldna::_selected_*.
#pragma once

#include "conv_shape.h"

#include <cstdint>
#include <string>
#include <tuple>

namespace kerneldna {

void select_in_python(int64_t classes);
bool selected_in_python(int call_class);

// Dtype (float64, float32, float16, bfloat16), kind (dense, 1x1, depthwise, grouped), whether spatial attention is per
// sample, and the layout (contiguous, channels_last), as dtype + 4 * kind + 16 * per_sample + 32 * channels_last.
// backends/_selection.py computes the same number.
int call_class(const Tensor &input, const Tensor &weight, const OptionalTensor &spatial_attention, int64_t groups);

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// kerneldna::_selected_conv and _selected_conv_backward, with the arguments checked here.
Tensor selected_conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                     const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
                     const OptionalTensor &spatial_attention, const std::vector<int64_t> &stride,
                     const std::vector<int64_t> &padding, const std::vector<int64_t> &dilation, int64_t groups);
Gradients selected_conv_backward(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                                 const OptionalTensor &bias, const OptionalTensor &channel_attention,
                                 const OptionalTensor &filter_attention, const OptionalTensor &spatial_attention,
                                 const std::vector<int64_t> &stride, const std::vector<int64_t> &padding,
                                 const std::vector<int64_t> &dilation, int64_t groups,
                                 const std::vector<bool> &output_mask);

std::string build_info();

} // namespace kerneldna
