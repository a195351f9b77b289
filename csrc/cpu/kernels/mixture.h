// The kernel of a sample out of several parents, and the way back from its gradient (Mixture of conv_params.h).
#pragma once

#include "conv_params.h"
#include "mix_elements.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

template <class T> void mix(const Mixture &mixture, int64_t begin, int64_t end) {
  const int64_t last = end * Mixture::kBlock < mixture.size ? end * Mixture::kBlock : mixture.size;
  const int64_t first = begin * Mixture::kBlock;
  mix_elements(static_cast<T *>(mixture.kernel) + first, static_cast<const T *>(mixture.parents) + first, mixture.size,
               static_cast<const T *>(mixture.factors), mixture.count, last - first);
}

// parent_grads[k] += factors[k] * kernel, and dots[unit][k] = the sum of kernel * parents[k] over the unit's elements.
template <class T> void unmix(const Mixture &mixture, int64_t begin, int64_t end) {
  constexpr int64_t lanes = kLanes<T>, chain = 64 * lanes; // elements that are one chain of additions in each lane
  const T *kernel = static_cast<const T *>(mixture.kernel), *factors = static_cast<const T *>(mixture.factors);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t last = (unit + 1) * Mixture::kBlock < mixture.size ? (unit + 1) * Mixture::kBlock : mixture.size;
    for (int64_t k = 0; k < mixture.count; ++k) {
      const T *parent = static_cast<const T *>(mixture.parents) + k * mixture.size;
      T *grad = mixture.parent_grads ? static_cast<T *>(mixture.parent_grads) + k * mixture.size : nullptr;
      double dot = 0;
      for (int64_t first = unit * Mixture::kBlock; first < last; first += chain) {
        const int64_t after = first + chain < last ? first + chain : last;
        Vec<T> sum{};
        for (int64_t j = first; j < after; j += lanes) {
          const int64_t width = after - j < lanes ? after - j : lanes;
          const Vec<T> value = load_first(kernel + j, width);
          sum += value * load_first(parent + j, width);
          if (grad)
            store_first(grad + j, load_first(grad + j, width) + value * splat(factors[k]), width);
        }
        dot += sum_lanes<T>(sum);
      }
      if (mixture.dots)
        mixture.dots[unit * mixture.count + k] = dot;
    }
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
