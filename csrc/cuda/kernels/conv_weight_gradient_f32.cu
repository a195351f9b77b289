#include "conv_weight_gradient.cuh"

namespace kerneldna::cuda {

void conv_weight_gradient_f32(const ConvWeightGradient &gradient, Stream stream) {
  launch_weight_gradient<Tf32Products>(gradient, stream);
}

} // namespace kerneldna::cuda
