#include "selection.h"

#include <atomic>

#include "cpu/kernels/isa.h"

namespace kerneldna {
namespace {
std::atomic<uint64_t> classes_of_python{0};
} // namespace

void select_in_python(int64_t classes) {
  classes_of_python.store(static_cast<uint64_t>(classes), std::memory_order_relaxed);
}

bool selected_in_python(int call_class) { return classes_of_python.load(std::memory_order_relaxed) >> call_class & 1; }

std::string build_info() {
  std::string info = "cpu_vector=" + std::string(cpu::active_isa_name());
#ifdef KERNELDNA_WITH_CUDA
  info += ";cuda=" KERNELDNA_CUDA_VERSION ";cuda_archs=" KERNELDNA_CUDA_ARCHS;
#endif
  return info;
}

} // namespace kerneldna
