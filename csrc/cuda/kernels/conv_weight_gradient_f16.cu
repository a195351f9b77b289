#include "conv_weight_gradient.cuh"

namespace kerneldna::cuda {

void conv_weight_gradient_f16(const ConvWeightGradient &gradient, Stream stream) {
  launch_half_weight_gradient<__half>(gradient, stream);
}

} // namespace kerneldna::cuda
