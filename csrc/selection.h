// Who answers a call of the public op: this library's kernel for the device, or the backend that Python selects.
//
// The library works in a process with no Python, and in one with Python the default path stays free of it: a native
// kernel looks up the class of its call in a table of bits. Python sets the bits of the classes that it wants to decide
// itself, and those calls go on to kerneldna::_selected_*. They are all classes while a backend is chosen explicitly,
// else those on the CPU where a table of measured winners names another backend, all of conv on CUDA, where what is
// fastest is known by shape, and those of GPUs that the library's kernels cannot run on.
#pragma once

#include "conv_call.h"

#include <cstdint>
#include <string>
#include <vector>

namespace kerneldna {

// What decides which backend is faster. Python asks for the number by kerneldna::_conv_class, which knows no device;
// backends/_winners.py has the digits' names.
//     dtype          0 float64, 1 float32, 2 float16, 3 bfloat16
//     kind           0 dense, 1 pointwise (1x1), 2 depthwise (groups = C_in > 1), 3 grouped
//     per_sample     spatial attention per sample
//     channels_last  the input's layout
//     large_map      at least kLargeMap output pixels a sample
//     cuda           the input's device: 0 CPU, 1 CUDA
// class = dtype + 4 * kind + 16 * per_sample + 32 * channels_last + 64 * large_map + 128 * cuda
constexpr int kConvClasses = 128; // on a device
constexpr int64_t kLargeMap = 512;
int call_class(const ConvCall &call);

// squeeze_excite has three, after those of conv: on the CPU, on CUDA, on a GPU that refuses the library's kernels. Then
// come conv with a kernel for each sample, given or mixed, on the CPU and on CUDA.
constexpr int kSqueezeExciteClasses = 3;
constexpr int kCallClasses = 2 * kConvClasses + kSqueezeExciteClasses + 2;
int squeeze_excite_class(const Tensor &input);

// The classes of calls that Python decides; all others are native.
void select_in_python(const std::vector<int64_t> &classes);
bool selected_in_python(int call_class);

// kerneldna::_selected_conv, _selected_conv_backward and _selected_squeeze_excite.
Tensor selected_conv(const ConvCall &call);
Gradients selected_conv_backward(const ConvBackwardCall &call);
Tensor selected_squeeze_excite(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias,
                               const Tensor &fc2_weight, const OptionalTensor &fc2_bias);

std::string build_info();

} // namespace kerneldna
