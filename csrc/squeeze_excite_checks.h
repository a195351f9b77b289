// The arguments of kerneldna::squeeze_excite, checked once for every device.
#pragma once

#include "checks.h"

namespace kerneldna {

// Throws one sentence that names the argument, what was expected and what came.
void check_squeeze_excite(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias,
                          const Tensor &fc2_weight, const OptionalTensor &fc2_bias);

} // namespace kerneldna
