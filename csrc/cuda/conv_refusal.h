// Which convolutions the CUDA kernels take. All else PyTorch's own operators do as well or better (backend composite).
#pragma once

#include "../conv_call.h"

namespace kerneldna::cuda {

// One clause that says why the kernels do not take a convolution of numbers of so many bytes; empty where they do.
std::string conv_refusal(const ConvCall &call);
std::string conv_refusal(const ConvShape &shape, int64_t element_bytes); // where one weight serves all samples

// Throws one sentence with that clause.
void check_taken(const ConvCall &call);

} // namespace kerneldna::cuda
