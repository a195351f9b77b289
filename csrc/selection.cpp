#include "selection.h"

#include <atomic>

#include "cpu/kernels/isa.h"

namespace kerneldna {
namespace {
std::atomic<bool> python_selects{false};
} // namespace

void select_in_python(bool enabled) {
  python_selects.store(enabled, std::memory_order_relaxed);
}

bool selected_in_python() {
  return python_selects.load(std::memory_order_relaxed);
}

std::string build_info() {
  std::string info = "cpu_vector=" + std::string(cpu::active_isa_name());
#ifdef KERNELDNA_WITH_CUDA
  info += ";cuda=" KERNELDNA_CUDA_VERSION ";cuda_archs=" KERNELDNA_CUDA_ARCHS;
#endif
  return info;
}

} // namespace kerneldna
