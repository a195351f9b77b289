#ifdef KERNELDNA_WITH_CUDA

#include "refusal.h"

#include "../box.h"
#include "kernels/launch.h"
#include "torch_stream.h"

#include <torch/csrc/stable/accelerator.h>

namespace kerneldna::cuda {

std::string refusal(int64_t device) {
  check(device >= 0, "kerneldna::_cuda_refusal: device must be the index of a CUDA device, got ", device);
  if (std::string missing = torch_stream_missing(); !missing.empty())
    return missing;
  const torch::stable::accelerator::DeviceGuard guard(static_cast<int32_t>(device));
  return device_of(static_cast<int>(device)).refusal;
}

} // namespace kerneldna::cuda

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CompositeExplicitAutograd, m) {
  m.impl("_cuda_refusal", KERNELDNA_BOX(&kerneldna::cuda::refusal));
}

#endif
