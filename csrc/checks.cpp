#include "checks.h"

#include <algorithm>
#include <string>

// From torch 2.13; absent, and null, in the versions before.
extern "C" __attribute__((weak)) const char *torch_exception_get_what_without_backtrace();

namespace kerneldna {

using torch::headeronly::ScalarType;

std::string torch_error(const std::string &otherwise) {
  return torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : otherwise;
}

std::ostream &operator<<(std::ostream &out, Bracketed list) {
  out << '[';
  for (size_t i = 0; i < list.count; ++i)
    out << (i ? ", " : "") << list.values[i];
  return out << ']';
}

bool has_shape(const Tensor &tensor, std::initializer_list<int64_t> expected) {
  const auto sizes = tensor.sizes();
  return sizes.size() == expected.size() && std::equal(expected.begin(), expected.end(), sizes.begin());
}

bool is_channels_last(const Tensor &input) {
  if (input.is_contiguous())
    return false;
  int64_t expected = 1;
  for (int dim : {1, 3, 2, 0}) {
    if (input.size(dim) != 1 && input.stride(dim) != expected)
      return false;
    expected *= input.size(dim);
  }
  return true;
}

const char *dtype_name(ScalarType dtype) {
  switch (dtype) {
  case ScalarType::Double:
    return "float64";
  case ScalarType::Float:
    return "float32";
  case ScalarType::Half:
    return "float16";
  case ScalarType::BFloat16:
    return "bfloat16";
  case ScalarType::Bool:
    return "bool";
  case ScalarType::Byte:
    return "uint8";
  case ScalarType::Char:
    return "int8";
  case ScalarType::Short:
    return "int16";
  case ScalarType::Int:
    return "int32";
  case ScalarType::Long:
    return "int64";
  case ScalarType::ComplexHalf:
    return "complex32";
  case ScalarType::ComplexFloat:
    return "complex64";
  case ScalarType::ComplexDouble:
    return "complex128";
  case ScalarType::Float8_e5m2:
    return "float8_e5m2";
  case ScalarType::Float8_e4m3fn:
    return "float8_e4m3fn";
  default:
    return "another dtype";
  }
}

ScalarType compute_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

namespace {

bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Double || dtype == ScalarType::Float || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

std::string device_name(const Tensor &tensor) {
  if (tensor.is_cpu())
    return "cpu";
  if (tensor.is_cuda())
    return "cuda:" + std::to_string(tensor.get_device_index());
  return "another device";
}

// Not after tensor.untyped_storage().resize_(0), by which a parameter is freed and yet keeps its shape.
void check_data(const char *op, const char *name, const Tensor &tensor) {
  int64_t bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  check(bytes > 0 || tensor.numel() == 0, op, ": ", name,
        " has a non-zero number of elements, but its data is not allocated, got shape ", shape_of(tensor),
        " and an empty storage");
}

} // namespace

void check_input(const char *op, const char *name, const Tensor &tensor) {
  check(is_supported(tensor.scalar_type()), op, ": ", name, " must be float64, float32, float16 or bfloat16, got ",
        dtype_name(tensor.scalar_type()));
  check_data(op, name, tensor);
}

void check_like_input(const char *op, const char *name, const Tensor &tensor, const Tensor &input) {
  check(tensor.defined(), op, ": ", name, " must be a tensor, got None"); // the dispatcher lets None through
  check(tensor.scalar_type() == input.scalar_type(), op, ": ", name, " must have the dtype of input (",
        dtype_name(input.scalar_type()), "), got ", dtype_name(tensor.scalar_type()));
  check(device_name(tensor) == device_name(input), op, ": ", name, " must be on the device of input (",
        device_name(input), "), got ", device_name(tensor));
  check_data(op, name, tensor);
}

} // namespace kerneldna
