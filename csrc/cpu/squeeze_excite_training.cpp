// kerneldna::_squeeze_excite_training and its gradient on the CPU: one call for each, because in a network the dozen
// operators of these small layers cost more than what they compute. In float32 and float64, and in inference, where the
// statistics are fixed ones and nobody asks for a gradient, in half precision too.
//
//     z = means fc1^T,  xhat = (z - mean) / sqrt(var + eps),  features = relu(gamma xhat + beta),
//     gate = sigmoid(features fc2^T + b)
//
// With d for the gradient of each, and a = gamma xhat + beta, the statistics being the batch's,
//
//     dz = gamma / sqrt(var + eps) * (da - mean(da) - xhat * mean(da * xhat))
//
// and through fixed ones its first term alone.
#include "../box.h"
#include "../squeeze_excite_checks.h"
#include "squeeze_excite.h"

#include <cmath>

namespace kerneldna::cpu {
namespace {

using torch::stable::parallel_for;

constexpr const char *op = "kerneldna::_squeeze_excite_training";

template <class T> const T *read(const Tensor &tensor) { return static_cast<const T *>(tensor.const_data_ptr()); }
template <class T> T *write(const Tensor &tensor) { return static_cast<T *>(tensor.mutable_data_ptr()); }

Tensor empty_as(const Tensor &tensor) { return torch::stable::empty(tensor.sizes(), tensor.scalar_type()); }

template <class S> void copy_to(std::vector<double> &values, const Tensor &tensor) {
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = double(read<S>(tensor)[int64_t(i) * tensor.stride(0)]);
}

// Those of a tensor [R], of which a call to torch would cost more than the numbers.
std::vector<double> values_of(const Tensor &tensor) {
  std::vector<double> values(tensor.size(0));
  switch (tensor.scalar_type()) {
  case ScalarType::Double:
    copy_to<double>(values, tensor);
    break;
  case ScalarType::Float:
    copy_to<float>(values, tensor);
    break;
  case ScalarType::Half:
    copy_to<torch::headeronly::Half>(values, tensor);
    break;
  default:
    copy_to<torch::headeronly::BFloat16>(values, tensor);
  }
  return values;
}

struct Statistics {
  Tensor running_mean, running_var;
  double eps, share; // share: of the batch in the running ones
  bool from_batch;
};

// From z [N, R] to features; z becomes xhat.
template <class T>
void normalise(const Tensor &z, const Tensor &gamma, const Tensor &beta, const Statistics &statistics,
               const Tensor &features, const Tensor &rstd) {
  const int64_t batch = z.size(0), count = z.size(1);
  T *x = write<T>(z), *feature = write<T>(features), *scale = write<T>(rstd);
  const std::vector<double> g = values_of(gamma), b = values_of(beta);
  std::vector<double> means = values_of(statistics.running_mean), vars = values_of(statistics.running_var);
  if (statistics.from_batch) {
    T *running_mean = write<T>(statistics.running_mean), *running_var = write<T>(statistics.running_var);
    std::fill(means.begin(), means.end(), 0.0);
    std::fill(vars.begin(), vars.end(), 0.0);
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t r = 0; r < count; ++r)
        means[r] += double(x[n * count + r]) / double(batch);
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t r = 0; r < count; ++r) {
        const double centred = x[n * count + r] - means[r];
        vars[r] += centred * centred / double(batch);
      }
    const double share = statistics.share, unbiased = double(batch) / double(batch - 1);
    for (int64_t r = 0; r < count; ++r) {
      running_mean[r] = T(running_mean[r] + share * (means[r] - running_mean[r]));
      running_var[r] = T(running_var[r] + share * (vars[r] * unbiased - running_var[r]));
    }
  }
  for (int64_t r = 0; r < count; ++r)
    scale[r] = T(1 / std::sqrt(vars[r] + statistics.eps));
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = n * count + r;
      x[at] = T(x[at] - means[r]) * scale[r];
      const T value = T(x[at] * g[r] + b[r]);
      feature[at] = value < 0 ? T(0) : value; // NaN stays
    }
}

// From the gradient of features, in place, to that of z; and those of gamma and beta.
template <class T>
void normalise_backward(const Tensor &d_features, const Tensor &features, const Tensor &xhat, const Tensor &rstd,
                        const Tensor &gamma, bool from_batch, const Tensor &d_gamma, const Tensor &d_beta) {
  const int64_t batch = xhat.size(0), count = xhat.size(1);
  T *d = write<T>(d_features);
  const T *feature = read<T>(features), *x = read<T>(xhat), *scale = read<T>(rstd), *g = read<T>(gamma);
  std::vector<double> sums(count), products(count);
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = n * count + r;
      if (feature[at] <= 0)
        d[at] = 0;
      sums[r] += d[at];
      products[r] += double(d[at]) * x[at];
    }
  for (int64_t r = 0; r < count; ++r) {
    write<T>(d_beta)[r] = T(sums[r]);
    write<T>(d_gamma)[r] = T(products[r]);
  }
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = n * count + r;
      double value = d[at];
      if (from_batch)
        value -= (sums[r] + x[at] * products[r]) / double(batch);
      d[at] = T(value * g[r] * scale[r]);
    }
}

// The gradient of the logits, and its sum over the samples.
template <class T>
void sigmoid_backward(const Tensor &grad, const Tensor &gate, const Tensor &d, const Tensor &d_bias) {
  const int64_t batch = gate.size(0), channels = gate.size(1);
  const T *in = read<T>(grad), *value = read<T>(gate);
  T *out = write<T>(d);
  std::vector<double> sums(channels);
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = n * channels + c;
      out[at] = in[at] * value[at] * (1 - value[at]);
      sums[c] += out[at];
    }
  std::copy(sums.begin(), sums.end(), write<T>(d_bias));
}

// left [rows, reduction] right; `transposed`: left [reduction, rows] instead.
Tensor multiply(const Tensor &left, const Tensor &right, bool transposed) {
  Matmul product{};
  product.rows = left.size(transposed ? 1 : 0);
  product.reduction = left.size(transposed ? 0 : 1);
  product.columns = right.size(1);
  product.left_row = transposed ? 1 : product.reduction;
  product.left_step = transposed ? product.rows : 1;
  const Tensor out = torch::stable::empty({product.rows, product.columns}, left.scalar_type());
  product.left = left.const_data_ptr();
  product.right = right.const_data_ptr();
  product.out = out.mutable_data_ptr();
  const auto kernel = kernels().matmul[left.scalar_type() == ScalarType::Double ? 0 : 1];
  parallel_for(0, product.tasks(), grain(Matmul::kTile * product.reduction * product.columns),
               [&](int64_t begin, int64_t end) { kernel(product, begin, end); });
  return out;
}

void check_feature(const char *name, const Tensor &tensor, int64_t count, const Tensor &input) {
  check_like_input(op, name, tensor, input);
  check(has_shape(tensor, {count}), op, ": ", name, " must have shape ", bracketed({count}), ", got ",
        shape_of(tensor));
}

bool is_double(const Tensor &tensor) { return tensor.scalar_type() == ScalarType::Double; }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(const Tensor &input, const Tensor &fc1_weight,
                                                           const Tensor &gamma, const Tensor &beta,
                                                           const Tensor &fc2_weight, const Tensor &fc2_bias,
                                                           Tensor running_mean, Tensor running_var, double eps,
                                                           double share, bool from_batch) {
  check_squeeze_excite(input, fc1_weight, std::nullopt, fc2_weight, fc2_bias);
  const ScalarType dtype = input.scalar_type();
  check(!from_batch || compute_dtype(dtype) == dtype, op, ": input must be float32 or float64, got ",
        dtype_name(dtype));
  check(!from_batch || input.size(0) > 1, op, ": statistics of a batch need at least 2 samples, got ", input.size(0));
  const int64_t hidden = fc1_weight.size(0);
  check_feature("bn_weight", gamma, hidden, input);
  check_feature("bn_bias", beta, hidden, input);
  check_feature("running_mean", running_mean, hidden, input);
  check_feature("running_var", running_var, hidden, input);
  check(running_mean.is_contiguous() && running_var.is_contiguous(), op, ": running statistics must be contiguous");

  const Tensor means = pooled(input);
  const Tensor xhat = dense_layer(means, fc1_weight, std::nullopt, false);
  const Tensor features = empty_as(xhat), rstd = torch::stable::empty({hidden}, compute_dtype(dtype));
  const Statistics statistics{running_mean, running_var, eps, share, from_batch};
  (is_double(input) ? normalise<double> : normalise<float>)(xhat, gamma, beta, statistics, features, rstd);
  const Tensor logits = dense_layer(features, fc2_weight, fc2_bias, false);
  const Tensor gate = logits.scalar_type() == dtype ? logits : torch::stable::empty(logits.sizes(), dtype);
  kernels().sigmoid[int(stored_of(dtype))](logits.const_data_ptr(), gate.mutable_data_ptr(), 0, gate.numel());
  return {gate, means, features, xhat, rstd};
}

// Takes what forward took and returned. Its first result is the gradient of the input, [N, C, 1, 1], at every pixel.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
backward(const Tensor &grad, const Tensor &fc1_weight, const Tensor &gamma, const Tensor &fc2_weight,
         const Tensor &gate, const Tensor &means, const Tensor &features, const Tensor &xhat, const Tensor &rstd,
         int64_t pixels, bool from_batch) {
  const std::pair<const char *, const Tensor &> taken[] = {{"gate", gate},
                                                           {"grad", grad},
                                                           {"fc1_weight", fc1_weight},
                                                           {"bn_weight", gamma},
                                                           {"fc2_weight", fc2_weight},
                                                           {"means", means},
                                                           {"features", features},
                                                           {"xhat", xhat},
                                                           {"rstd", rstd}};
  for (const auto &[name, tensor] : taken)
    check_like_input("kerneldna::_squeeze_excite_training_backward", name, tensor, gate);
  const bool in_double = is_double(gate);
  const Tensor d_logits = empty_as(gate), d_fc2_bias = torch::stable::empty({gate.size(1)}, gate.scalar_type());
  (in_double ? sigmoid_backward<double> : sigmoid_backward<float>)(as_contiguous(grad), gate, d_logits, d_fc2_bias);
  const Tensor d_z = multiply(d_logits, as_contiguous(fc2_weight), false);
  const Tensor d_gamma = empty_as(gamma), d_beta = empty_as(gamma);
  (in_double ? normalise_backward<double> : normalise_backward<float>)(d_z, features, xhat, rstd, as_contiguous(gamma),
                                                                       from_batch, d_gamma, d_beta);
  const Tensor d_means = multiply(d_z, as_contiguous(fc1_weight), false);
  if (in_double)
    for (double *d = write<double>(d_means), *end = d + d_means.numel(); d < end; ++d)
      *d /= double(pixels);
  else
    for (float *d = write<float>(d_means), *end = d + d_means.numel(); d < end; ++d)
      *d /= float(pixels);
  return {torch::stable::reshape(d_means, {d_means.size(0), d_means.size(1), 1, 1}),
          multiply(d_z, means, true),
          d_gamma,
          d_beta,
          multiply(d_logits, features, true),
          d_fc2_bias};
}

} // namespace
} // namespace kerneldna::cpu

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CPU, m) {
  m.impl("_squeeze_excite_training", KERNELDNA_BOX(&kerneldna::cpu::forward));
  m.impl("_squeeze_excite_training_backward", KERNELDNA_BOX(&kerneldna::cpu::backward));
}
