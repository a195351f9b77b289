// Between tensors and the torch-free kernels: what the host files of the CUDA ops share.
//
// These files are compiled twice: into the op library, for CUDA tensors, and into the module of host execution, which
// runs the same kernels on CPU tensors under ops of its own. In a CPU-only build of the library they are empty.
#pragma once

#include "../box.h"
#include "../conv_call.h"
#include "kernels/conv_depthwise.h"
#include "kernels/dtypes.h"
#include "kernels/geometry.h"
#include "kernels/launch.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <optional>

#ifdef KERNELDNA_HOST_EXECUTION
#define KERNELDNA_CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(kerneldna_cuda_host, CPU, m)
#else
#define KERNELDNA_CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(kerneldna, CUDA, m)
#endif

namespace kerneldna::cuda {

using torch::headeronly::ScalarType;

// The stream that torch runs on at the moment, on the device of the tensor, which is current as long as this lives.
class StreamGuard {
public:
  explicit StreamGuard(const Tensor &tensor);
  operator Stream() const { return stream; }

private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard;
  Stream stream;
};

Stored stored_of(ScalarType dtype);

Geometry geometry_of(const ConvShape &shape);
DepthwiseWeight depthwise_weight_of(const Tensor &weight);

// 0 for a stride that is never stepped over, which says nothing: not that what stands there is unaligned, above all.
int64_t stepped_stride(const Tensor &tensor, int64_t dim);

// The tensor itself where its channels can be read in vectors of 16 bytes, else a channels_last copy: channels are
// adjacent, pixels start at multiples of 16 bytes, and offsets within a row fit into 32 bits.
Tensor in_vectors(const Tensor &image);
Image image_of(const Tensor &image);

// The factors of an attention of channels, filters or taps, each of them a copy where the kernels cannot read the
// attention as it stands: where its last dimensions are not contiguous, or factors of channels, which are read 16 bytes
// at a time, not aligned. The copy lives as long as this.
class Factors {
public:
  static Factors of_channels(const OptionalTensor &attention, Kind kind) { return {attention, kind, true}; }
  static Factors of_taps(const OptionalTensor &attention, Kind kind) { return {attention, kind, false}; }
  operator Scale() const { return scale; }
  const void *data() const { return scale.data; }

private:
  Factors(const OptionalTensor &attention, Kind kind, bool in_vectors);

  OptionalTensor tensor;
  Scale scale{}; // null where there is none
};

Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype, const Tensor &like);
Tensor empty_image(const std::array<int64_t, 4> &sizes, const Tensor &like); // channels_last

// For NCHW tensors: what the kernels wrote in channels_last, brought into the layout that the op promises.
Tensor in_layout(const Tensor &image, bool channels_last);

} // namespace kerneldna::cuda
