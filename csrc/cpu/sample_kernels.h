// The kernel of each sample of a call that has more than one: given, or mixed of parents.
#pragma once

#include "host.h"

namespace kerneldna::cpu {

class SampleKernels {
public:
  // What a convolution reads: one weight [C_out, C_in / groups, kh, kw]; with a dimension in front, one for each sample
  // if `given`, else `parents` of which a sample has its mixture.
  struct Weight {
    Tensor tensor;
    bool given = false;
    int64_t parents = 0;
    Scale mix{};
  };

  explicit SampleKernels(const ConvCall &call);

  // Whether the samples are to be convolved one by one: one sample needs no kernels for several, and given kernels in a
  // half dtype are converted one by one.
  bool one_by_one() const;

  // In the dtype of the arithmetic; a mixed one stands in the buffer, which the first call makes.
  Tensor of(int64_t sample, Tensor &buffer) const;

  // Parents, which the convolution mixes; where a group has one channel or one filter, what they make for each sample,
  // which is small.
  Weight all() const;

  // The way back, sample by sample in order: from the gradient of a kernel to those of the parents, which are added to,
  // and of the factors. Either may be undefined, where it is not wanted.
  void add_gradients(int64_t sample, const Tensor &kernel_grad, Tensor &parent_grads, Tensor &factor_grads) const;

  bool mixed() const { return factors_.defined(); }
  bool single() const { return single_; }

private:
  Mixture mixture_of(int64_t sample, void *kernel) const;

  std::array<int64_t, 4> sizes_;
  int64_t batch_;
  bool single_;             // of one channel or one filter a group, as the depthwise kernels take them
  Tensor weight_, factors_; // mixed: both contiguous and in the dtype of the arithmetic
};

} // namespace kerneldna::cpu
