// Between tensors and the torch-free kernels: what the host files of the CUDA ops share.
//
// These files are compiled twice: into the op library, for CUDA tensors, and into the module of host execution, which
// runs the same kernels on CPU tensors under ops of its own. In a CPU-only build of the library they are empty.
#pragma once

#include "../box.h"
#include "../conv_shape.h"
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

using Ints = std::vector<int64_t>;
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

// Whether an attention has a factor for each sample; static_dim is the number of its dimensions without them.
bool is_per_sample(const OptionalTensor &attention, int64_t static_dim);

// The factors of an attention where they stand, or null if there is none. Where its last dimensions are not contiguous,
// or factors of channels not aligned to 16 bytes, `attention` becomes a copy, which must live as long as the scale.
Scale scale_of(OptionalTensor &attention, int64_t static_dim);

Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype, const Tensor &like);
Tensor empty_image(const std::array<int64_t, 4> &sizes, const Tensor &like); // channels_last

// For NCHW tensors: what the kernels wrote in channels_last, brought into the layout that the op promises.
Tensor in_layout_of(const Tensor &image, const Tensor &like);

} // namespace kerneldna::cuda
