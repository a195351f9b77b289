// The second pass of a reduction: adds up the parts that blocks stored, always in one order, so that results are
// bit-equal from run to run.
#pragma once

#include "dtypes.h"
#include "launch.h"

namespace kerneldna::cuda {

// out[a, b] = sum over r and m of in[r, a, b, m]; in holds the type that sums run in, out the stored one.
struct OrderedSum {
  const void *in; // [rows, sizes[0], sizes[1], inner], contiguous
  void *out;
  int64_t rows, sizes[2], inner;
  int64_t strides[2]; // of out
};

void ordered_sum(const OrderedSum &sum, Stored stored, Stream stream);

} // namespace kerneldna::cuda
