// Whether float32 products may run in TF32, which keeps 10 bits of a factor's mantissa. PyTorch's own setting is not
// within reach of the stable ABI, so Python passes it on, to each thread that calls (backends/cuda.py).
#pragma once

namespace kerneldna::cuda {

bool tf32_allowed(); // to this thread; at first not

} // namespace kerneldna::cuda
