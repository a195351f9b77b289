#pragma once
namespace kerneldna::cpu {
// The vector code that this processor runs: "avx512", "avx2" or "portable".
const char *active_isa_name();
} // namespace kerneldna::cpu
