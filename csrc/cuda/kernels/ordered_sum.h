// The second pass of a reduction: adds up the parts that blocks stored, always in one order, so that results are
// bit-equal from run to run.
#pragma once

#include "dtypes.h"
#include "launch.h"

namespace kerneldna::cuda {

// out[a, b] = sum over r of in[r, a, b]; out holds the stored type.
struct OrderedSum {
  const float *in; // [rows, sizes[0], sizes[1]], contiguous
  void *out;
  int64_t rows, sizes[2];
  int64_t strides[2]; // of out
};

void ordered_sum(const OrderedSum &sum, Stored stored, Stream stream);

} // namespace kerneldna::cuda
