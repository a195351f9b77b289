#include "squeeze_excite_checks.h"

namespace kerneldna {
namespace {

constexpr const char *op = "kerneldna::squeeze_excite";

// A fully connected layer, also in the form of a 1x1 convolution: [out, in] or [out, in, 1, 1].
bool is_dense(const Tensor &weight, int64_t out, int64_t in) {
  return has_shape(weight, {out, in}) || has_shape(weight, {out, in, 1, 1});
}

void check_bias(const char *name, const OptionalTensor &bias, int64_t size, const Tensor &input) {
  if (!bias)
    return;
  check_like_input(op, name, *bias, input);
  check(has_shape(*bias, {size}), op, ": ", name, " must have shape ", bracketed({size}), ", got ", shape_of(*bias));
}

} // namespace

void check_squeeze_excite(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias,
                          const Tensor &fc2_weight, const OptionalTensor &fc2_bias) {
  check(input.dim() == 4, op, ": input must be 4-D [N, C, H, W], got ", input.dim(), "-D ", shape_of(input));
  check_input(op, "input", input);
  check(input.size(1) > 0 && input.size(2) > 0 && input.size(3) > 0, op, ": only the batch of input may be empty, got ",
        shape_of(input));
  check_like_input(op, "fc1_weight", fc1_weight, input);
  check_like_input(op, "fc2_weight", fc2_weight, input);

  const int64_t channels = input.size(1);
  const int64_t hidden = fc1_weight.dim() > 0 ? fc1_weight.size(0) : 0;
  check(hidden > 0 && is_dense(fc1_weight, hidden, channels), op, ": fc1_weight must have shape [R, ", channels,
        "] or [R, ", channels, ", 1, 1] with R at least 1, got ", shape_of(fc1_weight));
  check(is_dense(fc2_weight, channels, hidden), op, ": fc2_weight must have shape ", bracketed({channels, hidden}),
        " or ", bracketed({channels, hidden, 1, 1}), ", got ", shape_of(fc2_weight));
  check_bias("fc1_bias", fc1_bias, hidden, input);
  check_bias("fc2_bias", fc2_bias, channels, input);
}

} // namespace kerneldna
