#include "host.h"

#include <cstring>

namespace kerneldna::cpu {

Stored stored_of(ScalarType dtype) {
  switch (dtype) {
  case ScalarType::Double:
    return Stored::f64;
  case ScalarType::Float:
    return Stored::f32;
  case ScalarType::Half:
    return Stored::f16;
  default: // ConvCall lets no other through
    return Stored::bf16;
  }
}

Tensor as_compute(const Tensor &tensor) {
  const ScalarType wanted = compute_dtype(tensor.scalar_type());
  return tensor.scalar_type() == wanted ? tensor : torch::stable::to(tensor, wanted);
}

Tensor as_contiguous(const Tensor &tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Tensor empty_image(const std::array<int64_t, 4> &sizes, const Tensor &like, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty({sizes.data(), sizes.size()}, like.scalar_type(), std::nullopt, like.device(),
                              std::nullopt, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

Tensor addressable(const Tensor &image) {
  if (image.stride(3) == 1 || image.stride(1) == 1 || image.size(3) == 1)
    return image;
  return torch::stable::contiguous(image);
}

Image image_of(const Tensor &image) {
  Image view{image.data_ptr(), image.stride(0), image.stride(1), image.stride(2),
             image.stride(3),  image.size(2),   image.size(3)};
  // A column of a map one pixel wide is never stepped over, so it may say what suits: a stride of 1 would claim that
  // pixels are adjacent, where it is the channels that are.
  if (view.width == 1 && view.channel_stride == 1)
    view.column_stride = image.size(1) > 1 ? image.size(1) : 1;
  return view;
}

Factors factors_of(const OptionalTensor &attention, Kind kind, int64_t count, const Tensor &like) {
  if (kind == Kind::absent) {
    const ScalarType dtype = compute_dtype(like.scalar_type());
    Tensor ones = torch::stable::empty({&count, 1}, dtype);
    if (dtype == ScalarType::Double)
      std::fill_n(ones.mutable_data_ptr<double>(), count, 1.0);
    else
      std::fill_n(ones.mutable_data_ptr<float>(), count, 1.0f);
    return {ones, {ones.data_ptr(), 0}};
  }
  Tensor factors = as_contiguous(as_compute(*attention));
  return {factors, {factors.data_ptr(), kind == Kind::per_sample && attention->size(0) > 1 ? count : 0}};
}

int64_t lanes_of(ScalarType dtype) {
  return compute_dtype(dtype) == ScalarType::Double ? kernels().float_lanes / 2 : kernels().float_lanes;
}

Tensor zeros(IntHeaderOnlyArrayRef sizes) {
  Tensor tensor = torch::stable::empty(sizes, ScalarType::Double);
  std::memset(tensor.mutable_data_ptr(), 0, tensor.numel() * sizeof(double));
  return tensor;
}

namespace {

int64_t bytes_of(ScalarType dtype) {
  switch (dtype) {
  case ScalarType::Double:
    return 8;
  case ScalarType::Float:
    return 4;
  default:
    return 2;
  }
}

} // namespace

Image of_sample(Image image, int64_t sample, ScalarType dtype) {
  image.data = static_cast<char *>(image.data) + sample * image.batch_stride * bytes_of(dtype);
  return image;
}

Scale of_sample(Scale scale, int64_t sample, ScalarType dtype) {
  if (scale.data)
    scale.data = static_cast<const char *>(scale.data) + sample * scale.batch_stride * bytes_of(compute_dtype(dtype));
  return scale;
}

std::vector<Tap> taps_of(const ConvShape &shape, const Tensor &weight) {
  const int64_t row = weight.stride(weight.dim() - 2), column = weight.stride(weight.dim() - 1);
  std::vector<Tap> taps;
  for (int64_t u = 0; u < shape.kernel_height; ++u)
    for (int64_t v = 0; v < shape.kernel_width; ++v)
      taps.push_back({u * shape.dilation[0] - shape.padding[0], v * shape.dilation[1] - shape.padding[1],
                      u * shape.kernel_width + v, u * row + v * column});
  return taps;
}

} // namespace kerneldna::cpu
