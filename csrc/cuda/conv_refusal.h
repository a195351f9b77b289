// Which convolutions the CUDA kernels take. All else PyTorch's own operators do as well or better (backend composite).
#pragma once

#include "../conv_shape.h"

namespace kerneldna::cuda {

bool is_depthwise(const ConvShape &shape);

// One clause that says why the kernels do not take a convolution of numbers of so many bytes; empty where they do.
std::string conv_refusal(const ConvShape &shape, int64_t element_bytes);

// Throws one sentence with that clause.
void check_taken(const char *op, const ConvShape &shape, const Tensor &input);

} // namespace kerneldna::cuda
