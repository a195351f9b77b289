#include "selection.h"

#include <atomic>

#include "cpu/host.h"

namespace kerneldna {
namespace {
std::atomic<uint64_t> classes_of_python{0};
} // namespace

void select_in_python(int64_t classes) {
  classes_of_python.store(static_cast<uint64_t>(classes), std::memory_order_relaxed);
}

bool selected_in_python(int call_class) { return classes_of_python.load(std::memory_order_relaxed) >> call_class & 1; }

int call_class(const Tensor &input, const Tensor &weight, const OptionalTensor &spatial_attention, int64_t groups) {
  if (input.dim() != 4 || weight.dim() != 4)
    return 0; // refused with a sentence wherever it goes
  int dtype = 0;
  switch (input.scalar_type()) {
  case torch::headeronly::ScalarType::Float:
    dtype = 1;
    break;
  case torch::headeronly::ScalarType::Half:
    dtype = 2;
    break;
  case torch::headeronly::ScalarType::BFloat16:
    dtype = 3;
    break;
  default:
    break;
  }
  int kind = 0;
  if (groups == input.size(1) && groups > 1)
    kind = 2;
  else if (groups > 1)
    kind = 3;
  else if (weight.size(2) == 1 && weight.size(3) == 1)
    kind = 1;
  const bool per_sample = spatial_attention && spatial_attention->dim() == 3;
  return dtype + 4 * kind + 16 * per_sample + 32 * is_channels_last(input);
}

std::string build_info() {
  std::string info = "cpu_vector=" + std::string(cpu::kernels().name);
#ifdef KERNELDNA_WITH_CUDA
  info += ";cuda=" KERNELDNA_CUDA_VERSION ";cuda_archs=" KERNELDNA_CUDA_ARCHS;
#endif
  return info;
}

} // namespace kerneldna
