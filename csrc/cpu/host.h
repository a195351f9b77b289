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
  Scale scale{};
};
Factors factors_of(const OptionalTensor &attention, Kind kind, int64_t count, const Tensor &like);

// The part of one sample, of tensors of this dtype (of factors: of its arithmetic).
Image of_sample(Image image, int64_t sample, ScalarType dtype);
Scale of_sample(Scale scale, int64_t sample, ScalarType dtype);

int64_t lanes_of(ScalarType dtype);

// In float64. Written here: in a network a call to torch costs more than the few numbers.
Tensor zeros(IntHeaderOnlyArrayRef sizes);

// The last two dimensions of the weight are those of the taps.
std::vector<Tap> taps_of(const ConvShape &shape, const Tensor &weight);

} // namespace kerneldna::cpu
