// kerneldna::conv out of PyTorch's own operators: for a process with no Python, in which composite does not answer what
// the CUDA kernels refuse. With Python, composite does (kerneldna_ops/backends/composite.py), at a lower price.
#pragma once

#include "checks.h"

#include <vector>

namespace kerneldna {

// The arguments have been checked. Spatial attention per sample takes a kernel for each sample, [N, C_out, C_in /
// groups, kh, kw] of them; nothing else does.
Tensor plain_conv(const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                  const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
                  const OptionalTensor &spatial_attention, const std::vector<int64_t> &stride,
                  const std::vector<int64_t> &padding, const std::vector<int64_t> &dilation, int64_t groups);

} // namespace kerneldna
