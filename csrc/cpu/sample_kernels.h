// The kernel of each sample of a call that has more than one: given, or mixed of parents. Mixed kernels exist one at a
// time, but for a depthwise call, where all of them are small.
#pragma once

#include "host.h"

namespace kerneldna::cpu {

class SampleKernels {
public:
  // A thread's own.
  struct Buffer {
    Tensor kernel;
  };

  explicit SampleKernels(const ConvCall &call);

  // [C_out, C_in / groups, kh, kw], in the dtype of the arithmetic; a mixed one stands in the buffer.
  Tensor of(int64_t sample, Buffer &buffer) const;

  // [N, C_out, C_in / groups, kh, kw]
  Tensor all() const;

  // The way back, sample by sample in order: from the gradient of a kernel to those of the parents, which are added to,
  // and of the factors. Either may be undefined, where it is not wanted.
  void add_gradients(int64_t sample, const Tensor &kernel_grad, Tensor &parent_grads, Tensor &factor_grads) const;

  bool mixed() const { return factors_.defined(); }

private:
  Mixture mixture_of(int64_t sample, void *kernel) const;

  std::array<int64_t, 4> sizes_;
  int64_t batch_;
  Tensor weight_, factors_; // mixed: both contiguous and in the dtype of the arithmetic
};

} // namespace kerneldna::cpu
