"""How large a network is: its weights, and the multiplications that one input costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import kerneldna_ops  # noqa: F401  registers the ops counted below

from .._eval_mode import eval_mode


def count_parameters(model: nn.Module) -> int:
    """The trained numbers of `model`; a weight that several layers share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, inputs: Tensor) -> int:
    """Multiply-accumulates of one forward pass of `model` in eval mode over `inputs`; each module keeps its mode.

    Counted where the operations run, so whatever a layer does inside is in it: every convolution and matrix product,
    the squeeze-excites of the adapters included. Elementwise work, pooling and normalisation are not counted.
    """
    ops = torch.ops.kerneldna
    counter = FlopCounterMode(
        display=False, custom_mapping={ops.conv: _conv_flops, ops.squeeze_excite: _squeeze_excite_flops}
    )
    with eval_mode(model), torch.no_grad(), counter:
        model(inputs)
    return counter.get_total_flops() // 2


def _conv_flops(input: Sequence[int], weight: Sequence[int], *_: object, out_shape: Sequence[int], **__: object) -> int:
    return 2 * torch.Size(out_shape).numel() * torch.Size(weight[1:]).numel()


def _squeeze_excite_flops(
    input: Sequence[int],
    fc1_weight: Sequence[int],
    fc1_bias: Sequence[int] | None,
    fc2_weight: Sequence[int],
    *_: object,
    **__: object,
) -> int:
    return 2 * input[0] * (torch.Size(fc1_weight).numel() + torch.Size(fc2_weight).numel())
