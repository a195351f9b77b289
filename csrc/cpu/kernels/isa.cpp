#include "kernel_table.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace kerneldna::cpu {
namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports("f16c") would say it, but clang 14 does not know that name.
bool converts_float16() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

const KernelTable *best() {
#if defined(__x86_64__)
  const char *limit = std::getenv("KERNELDNA_CPU_VECTOR"); // for tests: no better than this
  const bool avx2_only = limit && std::strcmp(limit, "avx2") == 0;
  const bool portable_only = limit && std::strcmp(limit, "portable") == 0;
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_float16();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && !avx2_only && !portable_only)
    return &kAvx512Kernels;
  if (avx2 && !portable_only)
    return &kAvx2Kernels;
#endif
  return &kPortableKernels;
}

} // namespace

const KernelTable &kernels() {
  static const KernelTable *const table = best();
  return *table;
}

} // namespace kerneldna::cpu
