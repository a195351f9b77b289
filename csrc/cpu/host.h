// Between tensors and the torch-free kernels: what forward and backward of the CPU ops share.
#pragma once

#include "../conv_call.h"
#include "kernels/kernel_table.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>

namespace kerneldna::cpu {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;

Stored stored_of(ScalarType dtype);

// The tensor itself if its dtype is that of the arithmetic, else a converted copy.
Tensor as_compute(const Tensor &tensor);
Tensor as_contiguous(const Tensor &tensor);

Tensor empty_image(const std::array<int64_t, 4> &sizes, const Tensor &like, bool channels_last);

// A tensor whose pixels or channels are adjacent in memory; a contiguous copy where neither is.
Tensor addressable(const Tensor &image);
Image image_of(const Tensor &image);

// Factors of an attention in the dtype of the arithmetic, or ones for an absent one; those of a single sample count as
// static. Keeps the tensor alive.
struct Factors {
  Tensor tensor;
  Scale scale;
};
Factors factors_of(const OptionalTensor &attention, Kind kind, int64_t count, const Tensor &like);

int64_t lanes_of(ScalarType dtype);

// In float64. Written here: in a network a call to torch costs more than the few numbers.
Tensor zeros(IntHeaderOnlyArrayRef sizes);

std::vector<Tap> taps_of(const ConvShape &shape, const Tensor &weight);

} // namespace kerneldna::cpu
