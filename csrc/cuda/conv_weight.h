// The weight side of a call on tensors: what is static multiplied into the weight, and the gradients that follow from
// the gradient of this product.
#pragma once

#include "host.h"
#include "kernels/geometry.h"

namespace kerneldna::cuda {

// Attentions of all samples: [C_in], [C_out] and [kh, kw], each absent where it is per sample or not there at all.
struct FixedAttentions {
  OptionalTensor channel, filter, spatial;
};

// [C_out, taps, C_in / groups], contiguous: the weight times the fixed attentions. The weight itself, where it stands,
// if it is in channels_last, aligned, and nothing is fixed.
struct FoldedWeight {
  Tensor keeps_alive;
  const void *data;
};
FoldedWeight folded_weight(const ConvShape &shape, const Tensor &weight, const FixedAttentions &fixed, Stream stream);

// Gradients of the weight, in its layout, and of the fixed attentions; only those that are asked for are set.
struct WeightGradients {
  Tensor weight, channel, filter, spatial;
};
struct WantedOfWeight {
  bool weight, channel, filter, spatial;
};

// grad_output and input are read in vectors of channels; the scales are those per sample.
WeightGradients weight_gradients(const ConvShape &shape, const Tensor &grad_output, const Tensor &input,
                                 const Tensor &weight, const FixedAttentions &fixed, const Scale &channel,
                                 const Scale &filter, const Scale &spatial, const WantedOfWeight &wanted,
                                 Stream stream);

} // namespace kerneldna::cuda
