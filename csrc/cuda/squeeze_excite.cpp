// kerneldna::squeeze_excite on CUDA.
#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "kernels/squeeze_excite.h"
#include "../selection.h"
#include "../squeeze_excite_checks.h"
#include "host.h"

#include <climits>

namespace kerneldna::cuda {
namespace {

constexpr const char *op = "kerneldna::squeeze_excite";

// Which torch's own operators do as well.
bool is_double(const Tensor &input) { return input.scalar_type() == ScalarType::Double; }

Tensor as_contiguous(const Tensor &tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

void check_sizes(const Tensor &input, int64_t hidden) {
  const int64_t pixels = input.size(2) * input.size(3);
  check(pixels <= INT_MAX / 2 && input.size(1) <= INT_MAX / 2 && hidden <= INT_MAX / 2, op,
        ": the CUDA kernels count channels, hidden features and pixels of a map to ", INT_MAX / 2, ", got input ",
        shape_of(input), " and ", hidden, " hidden features");
}

Tensor run(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias, const Tensor &fc2_weight,
           const OptionalTensor &fc2_bias) {
  const Tensor gate = torch::stable::new_empty(input, {input.size(0), input.size(1)});
  if (input.size(0) == 0)
    return gate;
  check_sizes(input, fc1_weight.size(0));
  const StreamGuard guard(input);
  const Tensor weights[] = {as_contiguous(fc1_weight), as_contiguous(fc2_weight)};
  OptionalTensor biases[] = {fc1_bias, fc2_bias};
  for (OptionalTensor &bias : biases)
    if (bias)
      bias = as_contiguous(*bias);

  SqueezeExcite se{};
  se.input = input.const_data_ptr();
  se.batch = input.size(0);
  se.sample_stride = stepped_stride(input, 0);
  se.channel_stride = stepped_stride(input, 1);
  se.row_stride = stepped_stride(input, 2);
  se.column_stride = stepped_stride(input, 3);
  se.channels = int(input.size(1));
  se.height = int(input.size(2));
  se.width = int(input.size(3));
  se.hidden = int(fc1_weight.size(0));
  se.fc1_weight = weights[0].const_data_ptr();
  se.fc1_bias = biases[0] ? biases[0]->const_data_ptr() : nullptr;
  se.fc2_weight = weights[1].const_data_ptr();
  se.fc2_bias = biases[1] ? biases[1]->const_data_ptr() : nullptr;
  se.gate = gate.mutable_data_ptr();
  const Stored stored = stored_of(input.scalar_type());
  const Stream stream = guard;
  se.shares = shares_of_sample(se, stored, limits_of(stream.device));
  const Tensor products = empty({se.batch, se.shares, se.hidden}, ScalarType::Float, input);
  se.products = products.mutable_data_ptr();
  squeeze_excite(se, stored, stream);
  return gate;
}

Tensor native(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias, const Tensor &fc2_weight,
              const OptionalTensor &fc2_bias) {
  check_squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  check(!is_double(input), op, ": the CUDA kernels have none for float64");
  return run(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
}

#ifndef KERNELDNA_HOST_EXECUTION
Tensor selected(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias, const Tensor &fc2_weight,
                const OptionalTensor &fc2_bias) {
  check_squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  if (is_double(input) || selected_in_python(squeeze_excite_class(input)))
    return selected_squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  return run(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
}
#endif

} // namespace
} // namespace kerneldna::cuda

KERNELDNA_CUDA_KERNELS(m) {
#ifdef KERNELDNA_HOST_EXECUTION
  m.impl("squeeze_excite", KERNELDNA_BOX(&kerneldna::cuda::native));
#else
  m.impl("squeeze_excite", KERNELDNA_BOX(&kerneldna::cuda::selected));
  m.impl("_native_squeeze_excite", KERNELDNA_BOX(&kerneldna::cuda::native));
#endif
}

#endif
