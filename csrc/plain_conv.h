// kerneldna::conv out of PyTorch's own operators: for a process with no Python, in which composite does not answer what
// the CUDA kernels refuse. With Python, composite does (kerneldna_ops/backends/composite.py), at a lower price.
#pragma once

#include "conv_call.h"

namespace kerneldna {

// Spatial attention per sample and mixtures take a kernel for each sample, [N, C_out, C_in / groups, kh, kw] of them;
// nothing else does.
Tensor plain_conv(const ConvCall &call);

} // namespace kerneldna
