#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "conv_weight.h"
#include "kernels/alignment.h"
#include "kernels/conv_weight_gradient.h"
#include "kernels/weight_fold.h"

namespace kerneldna::cuda {
namespace {

Weight weight_of(const Tensor &weight) {
  return {const_cast<void *>(weight.const_data_ptr()), weight.stride(0), weight.stride(1), weight.stride(2),
          weight.stride(3)};
}

// Whether the weight stands as [C_out, taps, C_in / groups] in memory, from a multiple of 16 bytes on.
bool is_folded(const Tensor &weight) {
  const bool is_pointwise = weight.size(2) * weight.size(3) == 1;
  return (is_channels_last(weight) || (weight.is_contiguous() && is_pointwise)) &&
         is_aligned(weight.const_data_ptr(), {}, 1);
}

// Static attentions, made contiguous, which must live as long as the fold.
WeightFold fold_of(const ConvShape &shape, const Tensor &weight, FixedAttentions &fixed) {
  return {geometry_of(shape), weight_of(weight), scale_of(fixed.channel, 1).data, scale_of(fixed.filter, 1).data,
          scale_of(fixed.spatial, 2).data};
}

// dV of weight_fold.h, in parts.
Tensor partial_gradients(ConvWeightGradient &gradient, const Tensor &like, Stream stream) {
  const Geometry &g = gradient.geometry;
  const Stored stored = stored_of(like.scalar_type());
  plan_conv_weight_gradient(gradient, stored, limits_of(stream.device));
  const Tensor partial =
      empty({gradient.parts, g.out_channels, int64_t(g.kernel_height) * g.kernel_width, g.in_channels / g.groups},
            ScalarType::Float, like);
  gradient.partial = partial.mutable_data_ptr<float>();
  conv_weight_gradient(gradient, stored, stream);
  return partial;
}

} // namespace

FoldedWeight folded_weight(const ConvShape &shape, const Tensor &weight, const FixedAttentions &fixed, Stream stream) {
  if (!fixed.channel && !fixed.filter && !fixed.spatial && is_folded(weight))
    return {weight, weight.const_data_ptr()};
  FixedAttentions contiguous = fixed;
  const Tensor folded =
      empty({shape.out_channels, shape.kernel_height * shape.kernel_width, shape.in_channels / shape.groups},
            weight.scalar_type(), weight);
  fold_weight(fold_of(shape, weight, contiguous), folded.mutable_data_ptr(), stored_of(weight.scalar_type()), stream);
  return {folded, folded.const_data_ptr()};
}

WeightGradients weight_gradients(const ConvShape &shape, const Tensor &grad_output, const Tensor &input,
                                 const Tensor &weight, const FixedAttentions &fixed, const Scale &channel,
                                 const Scale &filter, const Scale &spatial, const WantedOfWeight &wanted,
                                 Stream stream) {
  using torch::headeronly::MemoryFormat;
  ConvWeightGradient gradient{};
  gradient.geometry = geometry_of(shape);
  gradient.grad_output = image_of(grad_output);
  gradient.input = image_of(input);
  gradient.channel = channel;
  gradient.filter = filter;
  gradient.spatial = spatial;
  const Tensor partial = partial_gradients(gradient, input, stream);

  FixedAttentions contiguous = fixed;
  WeightUnfold unfold{};
  unfold.fold = fold_of(shape, weight, contiguous);
  unfold.partial = partial.const_data_ptr<float>();
  unfold.parts = gradient.parts;
  WeightGradients gradients;
  if (wanted.weight) {
    const MemoryFormat layout = is_channels_last(weight) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
    gradients.weight =
        torch::stable::empty(weight.sizes(), weight.scalar_type(), std::nullopt, weight.device(), std::nullopt, layout);
    unfold.grad_weight = weight_of(gradients.weight);
  }
  const auto make = [&](bool is_wanted, std::initializer_list<int64_t> sizes, Tensor &gradient) -> void * {
    if (!is_wanted)
      return nullptr;
    gradient = empty(sizes, weight.scalar_type(), weight);
    return gradient.mutable_data_ptr();
  };
  unfold.grad_channel = make(wanted.channel, {shape.in_channels}, gradients.channel);
  unfold.grad_filter = make(wanted.filter, {shape.out_channels}, gradients.filter);
  unfold.grad_spatial = make(wanted.spatial, {shape.kernel_height, shape.kernel_width}, gradients.spatial);
  const Tensor workspace = empty({unfold_workspace(unfold)}, ScalarType::Float, weight);
  unfold_weight(unfold, workspace.mutable_data_ptr<float>(), stored_of(weight.scalar_type()), stream);
  return gradients;
}

} // namespace kerneldna::cuda

#endif
