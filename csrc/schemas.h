// The arguments of the ops, which several of them share.
#pragma once

#define KERNELDNA_CONV_ARGUMENTS                                                                                       \
  "(Tensor input, Tensor weight, Tensor? bias=None, "                                                                  \
  "Tensor? channel_attention=None, Tensor? filter_attention=None, "                                                    \
  "Tensor? spatial_attention=None, SymInt[2] stride=1, SymInt[2] padding=0, "                                          \
  "SymInt[2] dilation=1, SymInt groups=1, Tensor? kernel_attention=None) -> Tensor"

#define KERNELDNA_CONV_BACKWARD_ARGUMENTS                                                                              \
  "(Tensor grad_output, Tensor input, Tensor weight, Tensor? bias, "                                                   \
  "Tensor? channel_attention, Tensor? filter_attention, "                                                              \
  "Tensor? spatial_attention, SymInt[2] stride, SymInt[2] padding, "                                                   \
  "SymInt[2] dilation, SymInt groups, Tensor? kernel_attention, bool[] output_mask) "                                  \
  "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"

#define KERNELDNA_SQUEEZE_EXCITE_ARGUMENTS                                                                             \
  "(Tensor input, Tensor fc1_weight, Tensor? fc1_bias, "                                                               \
  "Tensor fc2_weight, Tensor? fc2_bias) -> Tensor"

// With BatchNorm between fc1 and ReLU, whose running statistics follow those of the batch, if `from_batch`, by a share.
// Returns the gate and what its gradient needs: means, features, xhat, 1 / sqrt(var + eps).
#define KERNELDNA_SQUEEZE_EXCITE_TRAINING_ARGUMENTS                                                                    \
  "(Tensor input, Tensor fc1_weight, Tensor bn_weight, Tensor bn_bias, Tensor fc2_weight, "                            \
  "Tensor fc2_bias, Tensor(a!) running_mean, Tensor(b!) running_var, float eps, float share, "                         \
  "bool from_batch) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"

#define KERNELDNA_SQUEEZE_EXCITE_TRAINING_BACKWARD_ARGUMENTS                                                           \
  "(Tensor grad, Tensor fc1_weight, Tensor bn_weight, Tensor fc2_weight, Tensor gate, Tensor means, "                  \
  "Tensor features, Tensor xhat, Tensor rstd, int pixels, bool from_batch) "                                           \
  "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
