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
    bare = is_bare(fc1, nn.Linear) and is_bare(bn, nn.BatchNorm1d) and is_bare(fc2, nn.Linear)
    if not bare or not bn.track_running_stats or not is_plain_call():
        return None
    # Looked up where a module keeps them, in a fraction of the time; a replica of DataParallel has plain attributes.
    of_fc1, of_bn, of_fc2 = (layer._parameters or vars(layer) for layer in (fc1, bn, fc2))
    parameters = of_fc1.get("weight"), of_bn.get("weight"), of_bn.get("bias"), of_fc2.get("weight"), of_fc2.get("bias")
    running = bn._buffers.get("running_mean"), bn._buffers.get("running_var")
    batches = bn._buffers.get("num_batches_tracked")
    if not are_plain(*parameters, *running) or not are_plain(batches) or not are_plain(input) or fc1.bias is not None:
        return None
    if len(input) == 0 or (bn.training and len(input) == 1):
        return None
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (input, *parameters))
    in_training = recorded or bn.training
    kernels = _kernels(input, parameters[0], in_training)
    if kernels is not None and running[0].is_contiguous() and running[1].is_contiguous():
        statistics = Statistics(*running, batches, bn.eps, bn.momentum, bn.training)
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
    autocast or the dtype leaves none, and on a GPU in inference, for which there is the op."""
    if under_autocast(input):
        return None
    chosen = backends.chosen_backend()
    if chosen in (None, "cpu") and _gate_kernels.run_on(input, in_training):
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
