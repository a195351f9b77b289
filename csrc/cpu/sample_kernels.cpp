#include "sample_kernels.h"

namespace kerneldna::cpu {

SampleKernels::SampleKernels(const ConvCall &call)
    : sizes_{call.shape.out_channels, call.shape.in_channels / call.shape.groups, call.shape.kernel_height,
             call.shape.kernel_width},
      batch_(call.shape.batch), single_(call.shape.groups > 1 && (call.shape.groups == call.shape.in_channels ||
                                                                  call.shape.groups == call.shape.out_channels)),
      weight_(call.weight) {
  if (call.kernels != Kernels::mixed)
    return;
  weight_ = as_contiguous(as_compute(call.weight));
  factors_ = as_contiguous(as_compute(*call.kernel_attention));
}

Mixture SampleKernels::mixture_of(int64_t sample, void *kernel) const {
  Mixture mixture{};
  mixture.count = weight_.size(0);
  mixture.size = weight_.numel() / mixture.count;
  mixture.parents = weight_.data_ptr();
  mixture.factors = static_cast<const char *>(factors_.data_ptr()) + sample * mixture.count * factors_.element_size();
  mixture.kernel = kernel;
  return mixture;
}

Tensor SampleKernels::of(int64_t sample, Tensor &buffer) const {
  if (!mixed())
    return as_compute(torch::stable::select(weight_, 0, sample));
  if (!buffer.defined())
    buffer = torch::stable::empty(sizes_, weight_.scalar_type());
  const Mixture mixture = mixture_of(sample, buffer.data_ptr());
  const auto kernel = kernels().mix[weight_.scalar_type() != ScalarType::Double];
  torch::stable::parallel_for(0, mixture.units(), 1, [&](int64_t begin, int64_t end) { kernel(mixture, begin, end); });
  return buffer;
}

bool SampleKernels::one_by_one() const {
  return batch_ == 1 || (!mixed() && compute_dtype(weight_.scalar_type()) != weight_.scalar_type());
}

SampleKernels::Weight SampleKernels::all() const {
  if (!mixed())
    return {as_compute(weight_), true};
  if (!single_)
    return {weight_, false, weight_.size(0), {factors_.data_ptr(), weight_.size(0)}};
  const auto [filters, channels, height, width] = sizes_;
  Tensor kernels =
      torch::stable::empty(std::array<int64_t, 5>{batch_, filters, channels, height, width}, weight_.scalar_type());
  for (int64_t n = 0; n < batch_; ++n) {
    Tensor kernel = torch::stable::select(kernels, 0, n);
    of(n, kernel);
  }
  return {kernels, true};
}

void SampleKernels::add_gradients(int64_t sample, const Tensor &kernel_grad, Tensor &parent_grads,
                                  Tensor &factor_grads) const {
  Mixture mixture = mixture_of(sample, kernel_grad.data_ptr());
  mixture.parent_grads = parent_grads.defined() ? parent_grads.data_ptr() : nullptr;
  std::vector<double> dots(factor_grads.defined() ? mixture.units() * mixture.count : 0);
  mixture.dots = factor_grads.defined() ? dots.data() : nullptr;
  const auto kernel = kernels().unmix[weight_.scalar_type() != ScalarType::Double];
  torch::stable::parallel_for(0, mixture.units(), 1, [&](int64_t begin, int64_t end) { kernel(mixture, begin, end); });
  if (!factor_grads.defined())
    return;
  double *sums = factor_grads.mutable_data_ptr<double>() + sample * mixture.count;
  for (int64_t k = 0; k < mixture.count; ++k)
    for (int64_t unit = 0; unit < mixture.units(); ++unit)
      sums[k] += dots[unit * mixture.count + k];
}

} // namespace kerneldna::cpu
