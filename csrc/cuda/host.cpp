#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "host.h"

#include <limits>

#ifndef KERNELDNA_HOST_EXECUTION
#include "torch_stream.h"
#endif

namespace kerneldna::cuda {

using torch::headeronly::MemoryFormat;

StreamGuard::StreamGuard([[maybe_unused]] const Tensor &tensor) : stream{} {
#ifndef KERNELDNA_HOST_EXECUTION
  const int32_t device = tensor.get_device_index();
  guard.emplace(device);
  stream = {torch_stream(device), device};
#endif
}

Stored stored_of(ScalarType dtype) {
  switch (dtype) {
  case ScalarType::Float:
    return Stored::f32;
  case ScalarType::Half:
    return Stored::f16;
  default: // conv_refusal.h lets no other through
    return Stored::bf16;
  }
}

Geometry geometry_of(const ConvShape &shape) {
  Geometry geometry{};
  geometry.batch = shape.batch;
  geometry.groups = int(shape.groups);
  geometry.in_channels = int(shape.in_channels);
  geometry.out_channels = int(shape.out_channels);
  geometry.in_height = int(shape.in_height);
  geometry.in_width = int(shape.in_width);
  geometry.out_height = int(shape.out_height);
  geometry.out_width = int(shape.out_width);
  geometry.kernel_height = int(shape.kernel_height);
  geometry.kernel_width = int(shape.kernel_width);
  for (int d = 0; d < 2; ++d) {
    geometry.stride[d] = int(shape.stride[d]);
    geometry.padding[d] = int(shape.padding[d]);
    geometry.dilation[d] = int(shape.dilation[d]);
  }
  return geometry;
}

DepthwiseWeight depthwise_weight_of(const Tensor &weight) {
  return {weight.const_data_ptr(), weight.stride(0), weight.stride(2), weight.stride(3)};
}

Tensor in_vectors(const Tensor &image) {
  const auto are_vectors = [](const Tensor &tensor) {
    const Image image = image_of(tensor);
    return tensor.stride(1) == 1 &&
           is_aligned(image.data, {image.sample_stride, image.row_stride, image.column_stride},
                      tensor.element_size()) &&
           tensor.size(3) * image.column_stride <= std::numeric_limits<int32_t>::max();
  };
  if (are_vectors(image))
    return image;
  const Tensor copy = torch::stable::contiguous(image, MemoryFormat::ChannelsLast);
  // What is contiguous already has not been copied. New memory is aligned.
  return are_vectors(copy) ? copy : torch::stable::clone(copy);
}

int64_t stepped_stride(const Tensor &tensor, int64_t dim) { return tensor.size(dim) > 1 ? tensor.stride(dim) : 0; }

Image image_of(const Tensor &image) {
  return {const_cast<void *>(image.const_data_ptr()), stepped_stride(image, 0), stepped_stride(image, 2),
          stepped_stride(image, 3)};
}

Factors::Factors(const OptionalTensor &attention, Kind kind, bool in_vectors) : tensor(attention) {
  if (kind == Kind::absent)
    return;
  const bool per_sample = kind == Kind::per_sample;
  const auto sample_stride = [&] { return per_sample ? stepped_stride(*tensor, 0) : 0; };
  const auto is_readable = [&] {
    int64_t expected = 1;
    for (int64_t dim = tensor->dim() - 1; dim >= int64_t(per_sample); --dim) {
      if (tensor->stride(dim) != expected && tensor->size(dim) != 1)
        return false;
      expected *= tensor->size(dim);
    }
    return !in_vectors || is_aligned(tensor->const_data_ptr(), {sample_stride()}, tensor->element_size());
  };
  if (!is_readable())
    tensor = torch::stable::contiguous(*tensor);
  if (!is_readable()) // it was contiguous already
    tensor = torch::stable::clone(*tensor);
  scale = {tensor->const_data_ptr(), sample_stride()};
}

Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype, const Tensor &like) {
  return torch::stable::empty({sizes.begin(), sizes.size()}, dtype, std::nullopt, like.device());
}

Tensor empty_image(const std::array<int64_t, 4> &sizes, const Tensor &like) {
  return torch::stable::empty({sizes.data(), sizes.size()}, like.scalar_type(), std::nullopt, like.device(),
                              std::nullopt, MemoryFormat::ChannelsLast);
}

Tensor in_layout(const Tensor &image, bool channels_last) {
  if (channels_last)
    return image;
  // An empty tensor counts as contiguous whatever its strides are.
  return image.numel() ? torch::stable::contiguous(image) : torch::stable::new_empty(image, image.sizes());
}

} // namespace kerneldna::cuda

#endif
