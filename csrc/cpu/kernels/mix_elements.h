// A piece of a sample's kernel: the sum of as many pieces of parents, each times its share.
#pragma once

#include "simd.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// out[j] = sum_k factors[k] * parents[k * step + j]
template <class T>
KERNELDNA_INLINE void mix_elements(T *out, const T *parents, int64_t step, const T *factors, int64_t kernels,
                                   int64_t count) {
  constexpr int64_t lanes = kLanes<T>, together = 4; // vectors that share the broadcast of a factor
  int64_t j = 0;
  for (; j + together * lanes <= count; j += together * lanes) {
    Vec<T> sums[together] = {};
    for (int64_t k = 0; k < kernels; ++k) {
      const Vec<T> factor = splat(factors[k]);
      const T *in = parents + k * step + j;
#pragma GCC unroll 4
      for (int v = 0; v < together; ++v)
        sums[v] += load(in + v * lanes) * factor;
    }
#pragma GCC unroll 4
    for (int v = 0; v < together; ++v)
      store(out + j + v * lanes, sums[v]);
  }
  for (; j < count; j += lanes) {
    const int64_t width = count - j < lanes ? count - j : lanes;
    Vec<T> sum{};
    for (int64_t k = 0; k < kernels; ++k)
      sum += load_first(parents + k * step + j, width) * splat(factors[k]);
    store_first(out + j, sum, width);
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
