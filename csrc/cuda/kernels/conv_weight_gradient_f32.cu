#include "conv_weight_gradient.cuh"

namespace kerneldna::cuda {

void conv_weight_gradient_f32(const ConvWeightGradient &gradient, Stream stream) {
  if (gradient.tf32)
    launch_weight_gradient<Tf32Products>(gradient, stream);
  else
    launch_weight_gradient<FullProducts<float>>(gradient, stream);
}

} // namespace kerneldna::cuda
