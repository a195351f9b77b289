// The factors along K of a matrix product (conv_gemm.h) where taps have factors of their own.
#pragma once

#include "dtypes.h"
#include "geometry.h"
#include "launch.h"

namespace kerneldna::cuda {

// g[n, t, i] = s[n, t] * c[n, i], rounded once. Made before the product, whose loop then only copies it: multiplied
// there, it would wait for s and c in every step.
struct ReductionScale {
  int64_t batch;
  int taps, channels; // whole vectors of channels
  Scale spatial;      // s
  Scale channel;      // c, 1 if absent
  void *target;       // g, contiguous
};

void reduction_scale(const ReductionScale &scale, Stored stored, Stream stream);

} // namespace kerneldna::cuda
