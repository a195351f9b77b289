"""Which weight a parent and its children start from: the parent's own, the mean, or the one with the lowest loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .._eval_mode import eval_mode

Weight: TypeAlias = Literal["parent", "mean", "measured"]
Loss: TypeAlias = Callable[[nn.Module, Any], "Tensor | float"]


def mean_weight(family: Iterable[nn.Conv2d]) -> Tensor:
    """The mean of the weights, worked out in float32 at least."""
    weights = [conv.weight.detach() for conv in family]
    dtype = torch.promote_types(weights[0].dtype, torch.float32)
    return torch.stack([weight.to(dtype) for weight in weights]).mean(0).to(weights[0].dtype)


class Calibration:
    """The loss of a model on batches that are kept: what the user says, or the distance to its outputs of now.

    Args:
        model: in eval mode while it is measured, and without gradient.
        batches: at least one.
        loss: loss(model, batch); None: the mean squared difference between the model's output, one tensor, and that
            which it gave when this was made. The input is the batch, or the first entry of a tuple or list.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Any] | None, loss: Loss | None) -> None:
        if batches is None or isinstance(batches, Tensor):
            got = "none" if batches is None else "one tensor (for one batch, [tensor])"
            raise ValueError(f"share_kernels: weight='measured' needs batches of inputs, got {got}")
        self._model = model
        self._batches = list(batches)
        if not self._batches:
            raise ValueError("share_kernels: weight='measured' needs at least one batch, got none")
        self._loss = loss
        self._outputs: list[Tensor] = []
        if loss is None:
            with eval_mode(model), torch.no_grad():
                self._outputs = [self._output(batch) for batch in self._batches]

    def __call__(self) -> float:
        with eval_mode(self._model), torch.no_grad():
            if self._loss is not None:
                return sum(float(self._loss(self._model, batch)) for batch in self._batches)
            pairs = zip(self._batches, self._outputs, strict=True)
            return sum(float((self._output(batch) - output).square().mean()) for batch, output in pairs)

    def _output(self, batch: Any) -> Tensor:
        output = self._model(batch[0] if isinstance(batch, tuple | list) else batch)
        if not isinstance(output, Tensor):
            raise TypeError(
                "share_kernels: weight='measured' needs loss=function(model, batch) where the output is no tensor,"
                f" got a {type(output).__name__}"
            )
        return output.to(torch.promote_types(output.dtype, torch.float32))


def lowest(parent: nn.Conv2d, weights: Mapping[str, Tensor], calibration: Calibration) -> str:
    """Leaves the parent with the weight that gives the lowest loss and returns its name; of equals the first."""
    losses = {}
    for name, weight in weights.items():
        set_weight(parent, weight)
        loss = calibration()
        if math.isfinite(loss):
            losses[name] = loss
    if not losses:
        raise ValueError(
            f"share_kernels: the measured loss is not finite with any of the weights of {', '.join(weights)}"
        )
    best = min(losses, key=lambda name: losses[name])
    set_weight(parent, weights[best])
    return best


def set_weight(conv: nn.Conv2d, weight: Tensor) -> None:
    with torch.no_grad():
        conv.weight.copy_(weight)
