#include "conv_weight_gradient.cuh"

namespace kerneldna::cuda {

void conv_weight_gradient_f64(const ConvWeightGradient &gradient, Stream stream) {
  launch_weight_gradient<FullProducts<double>>(gradient, stream);
}

} // namespace kerneldna::cuda
