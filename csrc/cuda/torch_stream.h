// PyTorch's current stream, from whichever PyTorch is in the process. Knows nothing of torch's headers.
#pragma once

#include <cstdint>
#include <string>

namespace kerneldna::cuda {

// Why there is no such stream, or nothing.
std::string torch_stream_missing();

// The cudaStream_t that torch runs on at the moment on a device; throws one sentence where there is none.
void *torch_stream(int32_t device);

} // namespace kerneldna::cuda
