// Whether this library's CUDA kernels can run beside this PyTorch, on this GPU, with this driver.
#pragma once

#include <cstdint>
#include <string>

namespace kerneldna::cuda {

// Why they cannot run on a device, or nothing. kerneldna::_cuda_refusal
std::string refusal(int64_t device);

} // namespace kerneldna::cuda
