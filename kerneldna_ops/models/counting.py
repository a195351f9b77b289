"""How large a network is: its weights, and the multiplications that one input costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import kerneldna_ops  # noqa: F401  registers how its ops are counted

from .._eval_mode import eval_mode


def count_parameters(model: nn.Module) -> int:
    """The trained numbers of `model`; a weight that several layers share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, inputs: Tensor) -> int:
    """Multiply-accumulates of one forward pass of `model` in eval mode over `inputs`; each module keeps its mode.

    Counted where the operations run, so whatever a layer does inside is in it: every convolution and matrix product,
    the squeeze-excites of the adapters included. Elementwise work, pooling and normalisation are not counted.
    """
    counter = FlopCounterMode(display=False)
    with eval_mode(model), torch.no_grad(), counter:
        model(inputs)
    return counter.get_total_flops() // 2
