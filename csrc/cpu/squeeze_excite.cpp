// kerneldna::squeeze_excite on the CPU.
#include "squeeze_excite.h"
#include "../box.h"
#include "../selection.h"
#include "../squeeze_excite_checks.h"
#include "tuning.h"

namespace kerneldna::cpu {
namespace {

using torch::stable::parallel_for;

Tensor compute_matrix(int64_t rows, int64_t columns, const Tensor &like) {
  return torch::stable::empty({rows, columns}, compute_dtype(like.scalar_type()));
}

// Means over the blocks of pixels: [N, blocks, C] to [N, C].
template <class T> Tensor mean_of_blocks(const Pool &pool, const Tensor &sums) {
  const Tensor mean = compute_matrix(pool.batch, pool.channels, sums);
  const T *sum = static_cast<const T *>(sums.const_data_ptr());
  T *target = static_cast<T *>(mean.mutable_data_ptr());
  for (int64_t n = 0; n < pool.batch; ++n)
    for (int64_t c = 0; c < pool.channels; ++c) {
      double total = 0;
      for (int64_t block = 0; block < pool.blocks; ++block)
        total += sum[(n * pool.blocks + block) * pool.channels + c];
      target[n * pool.channels + c] = T(total / double(pool.image.height * pool.image.width));
    }
  return mean;
}

} // namespace

int64_t grain(int64_t steps_per_task) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, steps_per_task)); }

Tensor pooled(const Tensor &input) {
  Pool pool{image_of(input), input.size(0), input.size(1)};
  pool.channels_adjacent = pool.channels > 1 && pool.image.channel_stride == 1 && pool.image.column_stride != 1;
  const int64_t pixels = pool.image.height * pool.image.width;
  pool.blocks = pool.channels_adjacent ? (pixels + kPixelBlock - 1) / kPixelBlock : 1;
  const Tensor sums = compute_matrix(pool.batch * pool.blocks, pool.channels, input);
  pool.sums = sums.mutable_data_ptr();
  const auto kernel = kernels().pool[int(stored_of(input.scalar_type()))];
  const int64_t steps = pool.channels_adjacent ? std::min(pixels, kPixelBlock) * pool.channels : pixels;
  parallel_for(0, pool.tasks(), grain(steps), [&](int64_t begin, int64_t end) { kernel(pool, begin, end); });
  if (pool.blocks == 1)
    return sums;
  return sums.scalar_type() == ScalarType::Double ? mean_of_blocks<double>(pool, sums)
                                                  : mean_of_blocks<float>(pool, sums);
}

Tensor dense_layer(const Tensor &x, const Tensor &weight, const OptionalTensor &bias, bool rectified) {
  const Tensor packed = as_contiguous(weight);
  Dense layer{packed.const_data_ptr()};
  if (bias) {
    layer.bias = bias->const_data_ptr();
    layer.bias_stride = bias->stride(0);
  }
  layer.batch = x.size(0);
  layer.in = weight.size(1);
  layer.out = weight.size(0);
  layer.rectified = rectified;
  const Tensor y = compute_matrix(layer.batch, layer.out, x);
  layer.x = x.const_data_ptr();
  layer.y = y.mutable_data_ptr();
  const auto kernel = kernels().dense[int(stored_of(weight.scalar_type()))];
  parallel_for(0, layer.tasks(), grain(layer.in * Dense::kTile * Dense::kTile),
               [&](int64_t begin, int64_t end) { kernel(layer, begin, end); });
  return y;
}

namespace {

Tensor run(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias, const Tensor &fc2_weight,
           const OptionalTensor &fc2_bias) {
  const Tensor gates = torch::stable::new_empty(input, {input.size(0), input.size(1)});
  const Tensor hidden = dense_layer(pooled(input), fc1_weight, fc1_bias, true);
  const Tensor logits = dense_layer(hidden, fc2_weight, fc2_bias, false);
  kernels().sigmoid[int(stored_of(input.scalar_type()))](logits.const_data_ptr(), gates.mutable_data_ptr(), 0,
                                                         gates.numel());
  return gates;
}

Tensor native_squeeze_excite(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias,
                             const Tensor &fc2_weight, const OptionalTensor &fc2_bias) {
  check_squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  return run(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
}

Tensor squeeze_excite(const Tensor &input, const Tensor &fc1_weight, const OptionalTensor &fc1_bias,
                      const Tensor &fc2_weight, const OptionalTensor &fc2_bias) {
  check_squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  if (selected_in_python(squeeze_excite_class(input)))
    return selected_squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  return run(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
}

} // namespace
} // namespace kerneldna::cpu

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CPU, m) {
  m.impl("squeeze_excite", KERNELDNA_BOX(&kerneldna::cpu::squeeze_excite));
  m.impl("_native_squeeze_excite", KERNELDNA_BOX(&kerneldna::cpu::native_squeeze_excite));
}
