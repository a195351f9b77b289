"""The gate of squeeze-and-excitation in one step, where its three layers are what they were built as."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import backends
from . import _gate_kernels, _gate_kernels_triton
from ._bare import are_plain, is_bare, is_plain_call, under_autocast
from ._trainable_gate import Statistics, TrainableGate

_squeeze_excite = torch.ops.kerneldna.squeeze_excite.default


def fused_gate(input: Tensor, fc1: Any, bn: Any, fc2: Any) -> Tensor | None:
    """sigmoid(fc2(relu(bn(fc1(mean of input over H and W))))), [N, C], or None where the layers have to be called.

    input: [N, C, H, W], checked. Nothing is kept from one call to the next, so no change of a parameter is missed.
    """
    layers = ((fc1, nn.Linear), (bn, nn.BatchNorm1d), (fc2, nn.Linear))
    if not is_plain_call() or not all(is_bare(layer, kind) for layer, kind in layers):
        return None
    parameters = fc1.weight, bn.weight, bn.bias, fc2.weight, fc2.bias
    running = bn.running_mean, bn.running_var
    as_built = fc1.bias is None and bn.track_running_stats and are_plain(bn.num_batches_tracked)
    if not as_built or not are_plain(input) or not are_plain(*parameters, *running):
        return None
    if input.numel() == 0 or (bn.training and len(input) == 1):
        return None
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (input, *parameters))
    in_training = recorded or bn.training
    kernels = _kernels(input, fc1.weight, in_training)
    if kernels is not None and running[0].is_contiguous() and running[1].is_contiguous():
        statistics = Statistics(*running, bn.num_batches_tracked, bn.eps, bn.momentum, bn.training)
        operands = (input, *parameters)
        try:
            if recorded:
                return TrainableGate.apply(kernels, statistics, *operands)  # type: ignore[no-any-return, no-untyped-call]
            return kernels.forward(operands, statistics)[0]  # type: ignore[no-any-return]
        except backends.CannotRun as error:
            if backends.chosen_backend() is not None:
                raise backends.cannot_run("triton", str(error)) from error
    if in_training:
        return None
    gate: Tensor = backends.call(_squeeze_excite, input, *_folded(fc1, bn), fc2.weight, fc2.bias)
    return gate


def _kernels(input: Tensor, fc1_weight: Tensor, in_training: bool) -> Any:
    """What computes all of it at once: the C++ library on the CPU, Triton on a GPU. None where the choice of a backend,
    autocast or the dtype leaves none, and in inference on a GPU, where the op takes fewer launches."""
    if under_autocast(input):
        return None
    chosen = backends.chosen_backend()
    if chosen in (None, "cpu") and _gate_kernels.run_on(input):
        return _gate_kernels
    on_triton = in_training and (chosen == "triton" or (chosen is None and input.is_cuda))
    return _gate_kernels_triton if on_triton and _gate_kernels_triton.run_on(input, fc1_weight) else None


def _folded(fc1: Any, bn: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of fc1 with bn in eval mode behind it: bn of the weight is the weight times a scale, if the mean
    and bn's bias are left out, and bn of zero the bias. Worked out in float32 at least."""
    zero = torch.zeros_like(bn.running_mean)
    weight = F.batch_norm(fc1.weight[None], zero, bn.running_var, bn.weight, eps=bn.eps)
    bias = F.batch_norm(zero[None], bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
    return weight[0], bias[0]
