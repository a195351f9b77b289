#include "reduction_scale.h"

namespace kerneldna::cuda {
namespace {

constexpr int kThreads = 256;

// A thread has a vector of channels of a tap.
template <class T>
__global__ void __launch_bounds__(kThreads) reduction_scale_kernel(const ReductionScale p, int64_t vectors) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= vectors)
    return;
  const int per_tap = p.channels / Vector<T>::kCount;
  const int64_t tap = index / per_tap, sample = tap / p.taps; // tap: of all samples
  const float s =
      to_compute(static_cast<const T *>(p.spatial.data)[sample * p.spatial.sample_stride + (tap - sample * p.taps)]);
  Vector<T> factors;
  if (p.channel.data)
    factors = reinterpret_cast<const Vector<T> *>(static_cast<const T *>(p.channel.data) +
                                                  sample * p.channel.sample_stride)[index - tap * per_tap];
#pragma unroll
  for (T &factor : factors.values)
    factor = from_compute<T>(p.channel.data ? to_compute(factor) * s : s);
  static_cast<Vector<T> *>(p.target)[index] = factors;
}

} // namespace

void reduction_scale(const ReductionScale &scale, Stored stored, Stream stream) {
  with_type_of(stored, [&](auto zero) {
    using T = decltype(zero);
    const int64_t vectors = scale.batch * scale.taps * (scale.channels / Vector<T>::kCount);
    const Launch where{"reduction_scale", {ceil_divide(vectors, kThreads)}, dim3(kThreads), 0, stream};
    launch(reduction_scale_kernel<T>, where, scale, vectors);
  });
}

} // namespace kerneldna::cuda
