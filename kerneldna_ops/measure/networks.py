"""How large a network is, and what it takes: weights, the multiplications that one input costs, time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .._eval_mode import eval_mode
from .time import Rounds, Spread, Timed


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


@torch.inference_mode()
def forward(model: nn.Module, images: Tensor) -> Tensor:
    scores: Tensor = model(images)
    return scores


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Of the cross-entropy, of all parameters: a training step without the optimizer."""
    return torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))


@dataclass(frozen=True)
class Cost:
    """Of one network. `macs` are of one image, seconds of a batch; ratios are to another network, round by round."""

    parameters: int
    macs: int
    forward_seconds: Spread
    forward_ratio: Spread
    training_seconds: Spread
    training_ratio: Spread
    undisturbed: bool


def costs(
    models: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    base: str,
    take_turns: Callable[[Mapping[str, Timed]], Rounds],
) -> dict[str, Cost]:
    """Of networks that take turns on a batch [N, C, H, W] with labels [N] int64, `base` among them, to which the ratios
    are; forward passes in eval mode, gradients in training mode. `take_turns`: time.alternate, with options."""
    taken = take_turns({name: partial(forward, model.eval(), images) for name, model in models.items()})
    trained = take_turns({name: partial(gradients, model.train(), images, labels) for name, model in models.items()})
    return {
        name: Cost(
            count_parameters(model),
            count_macs(model, images[:1]),
            taken.time(name),
            taken.ratio(name, base),
            trained.time(name),
            trained.ratio(name, base),
            taken.undisturbed and trained.undisturbed,
        )
        for name, model in models.items()
    }
