// What every op checks the same way. Each failure is one sentence that names the argument, what was expected and what
// came.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace kerneldna {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// STD_TORCH_CHECK would put the source file and line before the sentence.
template <typename... Parts> void check(bool holds, const Parts &...parts) {
  if (holds)
    return;
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw std::runtime_error(sentence.str());
}

// What torch says of the call to it that failed last in this thread; from torch 2.13, else `otherwise`.
std::string torch_error(const std::string &otherwise);

// Written as "[2, 3]". It borrows the values, so that a check that holds costs no string.
struct Bracketed {
  const int64_t *values;
  size_t count;
};
std::ostream &operator<<(std::ostream &out, Bracketed list);

inline Bracketed bracketed(std::initializer_list<int64_t> values) { return {values.begin(), values.size()}; }
inline Bracketed shape_of(const Tensor &tensor) { return {tensor.sizes().data(), tensor.sizes().size()}; }

// F.conv2d's rule with the input alone deciding: channels_last in, channels_last out.
bool is_channels_last(const Tensor &input);

const char *dtype_name(torch::headeronly::ScalarType dtype);

// What sums of a dtype run in: float64 for float64, else float32.
torch::headeronly::ScalarType compute_dtype(torch::headeronly::ScalarType dtype);

bool has_shape(const Tensor &tensor, std::initializer_list<int64_t> expected);

// float64, float32, float16 or bfloat16; and that its storage was not freed.
void check_input(const char *op, const char *name, const Tensor &tensor);

// The dtype and the device of input; and that its storage was not freed.
void check_like_input(const char *op, const char *name, const Tensor &tensor, const Tensor &input);

} // namespace kerneldna
