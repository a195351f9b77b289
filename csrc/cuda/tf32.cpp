#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "tf32.h"

#include <torch/csrc/stable/library.h>

namespace kerneldna::cuda {
namespace {

thread_local bool allowed_here = false;

void allow_tf32(bool allowed) { allowed_here = allowed; }

} // namespace

bool tf32_allowed() { return allowed_here; }

} // namespace kerneldna::cuda

#ifdef KERNELDNA_HOST_EXECUTION
STABLE_TORCH_LIBRARY_IMPL(kerneldna_cuda_host, CompositeExplicitAutograd, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(kerneldna, CompositeExplicitAutograd, m) {
#endif
  m.impl("_allow_tf32", TORCH_BOX(&kerneldna::cuda::allow_tf32));
}

#endif
