// Gradients of attentions per sample, from what the tiles of conv_gemm.h summed over their pixels.
#pragma once

#include "dtypes.h"
#include "geometry.h"
#include "launch.h"

namespace kerneldna::cuda {

// Each tile left a row for every sample that it holds pixels of; e[n, t, j] is the sum of those of sample n, in order.
struct AttentionSums {
  Geometry geometry;
  bool transposed, by_tap; // those of the ConvGemm; without by_tap there is one t
  int sum_rows;            // those of its plan
  const float *pixel_sums;
  Scale tap_scale;    // s[n, t], 1 if absent
  Scale filter_scale; // f[n, j], 1 if absent
  void *by_channel;   // [N, channels of the target] = sum_t s[n, t] * e[n, t, j], or null
  void *by_tap_sums;  // [N, taps] = sum_j f[n, j] * e[n, t, j], or null
};

void attention_sums(const AttentionSums &call, Stored stored, Stream stream);

} // namespace kerneldna::cuda
