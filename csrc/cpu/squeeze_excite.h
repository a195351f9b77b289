// The steps that squeeze-and-excitation takes in inference and in training.
#pragma once

#include "host.h"

namespace kerneldna::cpu {

// The mean over the pixels of each channel, [N, C] in the dtype of the arithmetic.
Tensor pooled(const Tensor &input);

// x [N, in] times weight [out, in] transposed, plus bias, in the dtype of the arithmetic, which is that of x.
Tensor dense_layer(const Tensor &x, const Tensor &weight, const OptionalTensor &bias, bool rectified);

// How many tasks of so many scalar steps a thread takes at least: below, it costs more than it brings.
int64_t grain(int64_t steps_per_task);

} // namespace kerneldna::cpu
