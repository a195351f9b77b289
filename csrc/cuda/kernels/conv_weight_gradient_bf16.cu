#include "conv_weight_gradient.cuh"

namespace kerneldna::cuda {

void conv_weight_gradient_bf16(const ConvWeightGradient &gradient, Stream stream) {
  launch_half_weight_gradient<__nv_bfloat16>(gradient, stream);
}

} // namespace kerneldna::cuda
