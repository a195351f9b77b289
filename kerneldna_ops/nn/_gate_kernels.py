"""Squeeze-and-excitation and its gradient by the C++ library's kernels for the CPU (csrc/cpu), an op each way."""

import torch
from torch import Tensor

from ._trainable_gate import Operands, Statistics

_IN_LIBRARY = torch._C._dispatch_has_kernel_for_dispatch_key("kerneldna::_squeeze_excite_training", "CPU")

_forward = torch.ops.kerneldna._squeeze_excite_training.default
_backward = torch.ops.kerneldna._squeeze_excite_training_backward.default


def run_on(input: Tensor, in_training: bool) -> bool:
    """Half precision is for inference only: no batch's statistics, and no gradient."""
    return _IN_LIBRARY and input.is_cpu and (not in_training or input.dtype in (torch.float32, torch.float64))


def forward(operands: Operands, statistics: Statistics) -> tuple[Tensor, tuple[Tensor, ...]]:
    mean, var, batches, eps, share, from_batch = statistics
    if share is None:
        share = 1.0 / (float(batches) + 1.0) if from_batch else 0.0
    gate, *kept = _forward(*operands, mean, var, eps, share, from_batch)
    if from_batch:  # and not before: an op that refuses its arguments has changed nothing
        batches.add_(1)
        torch.autograd.graph.increment_version((mean, var))
    return gate, tuple(kept)


def backward(
    grad: Tensor, operands: Operands, statistics: Statistics, gate: Tensor, kept: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    input, fc1_weight, gamma, _, fc2_weight, _ = operands
    pixels = input.shape[2] * input.shape[3]
    d_input, *gradients = _backward(grad, fc1_weight, gamma, fc2_weight, gate, *kept, pixels, statistics.from_batch)
    return d_input.expand(input.shape), *gradients
