"""How far from the truth a result may lie: the rule of flash-attention's tests, no constant tuned by hand.

At most twice the error of plain PyTorch in the same precision, relative to the values, plus what rounding alone costs
at the size of the values, plus what the order of summation may cost, since no backend has to add in PyTorch's order.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Truth(NamedTuple):
    """A result in float64. Each value is the sum of `count` products, whose absolute values sum to `size` at most."""

    name: str
    value: Tensor
    size: float
    count: float

    @property
    def scale(self) -> float:
        """The largest value, or what is to be expected of it where a few values happen to be close to zero."""
        return max(largest(self.value), self.size / math.sqrt(self.count))

    def error(self, result: Tensor) -> float:
        return largest(result.cpu().double() - self.value)


def largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0


def plain_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision of the plain PyTorch that a result is compared with: its own; for TF32 that of float16, which has
    its mantissa. Whether PyTorch itself takes TF32 for a convolution depends on the algorithm that it picks."""
    tf32 = device.type == "cuda" and dtype is torch.float32 and torch.backends.cudnn.allow_tf32
    return torch.float16 if tf32 else dtype


def rounding(truth: Truth, dtype: torch.dtype) -> float:
    """Measured, as flash-attention does: what an addition and a subtraction leave of the values."""
    rounded = truth.value.to(dtype)
    return 2 * largest(rounded + 0.3 - 0.3 - rounded)


def summation(truth: Truth, dtype: torch.dtype) -> float:
    """The worst to expect of running sums in the accumulator, float32 at least.

    Adding the k-th product of random sign rounds a partial sum of about sqrt(k) products with a deviation of 0.29
    epsilon. That makes 0.2 * epsilon * count products at the end, and the worst of many sums is four deviations off.
    """
    return torch.finfo(torch.promote_types(dtype, torch.float32)).eps * truth.size


def assert_within(
    results: Sequence[Tensor | None],
    truths: Sequence[Truth | None],
    plain: Sequence[Sequence[Tensor | None]],
) -> None:
    """All results of one call in one dtype, and those of plain PyTorch in each of the forms it can be written in.

    The worst relative error of plain PyTorch counts for all of them, one epsilon at least: a tensor of three values may
    be exact by mere luck. None is not compared.
    """
    plain_error = max(
        truth.error(result) / truth.scale if truth.scale > 0 else 0
        for form in plain
        for result, truth in zip(form, truths, strict=True)
        if result is not None and truth is not None
    )
    coarsest = max(
        (torch.finfo(result.dtype).eps for form in plain for result in form if result is not None), default=0
    )
    for result, truth in zip(results, truths, strict=True):
        if result is None or truth is None:
            continue
        assert result.shape == truth.value.shape, f"{truth.name}: {list(result.shape)} is not {list(truth.value.shape)}"
        epsilon = max(torch.finfo(result.dtype).eps, coarsest)
        error = truth.error(result)
        bound = (
            2 * max(plain_error, epsilon) * truth.scale + rounding(truth, result.dtype) + summation(truth, result.dtype)
        )
        assert error <= bound, (
            f"{truth.name}: off by {error:.3g} in {result.dtype}, allowed is {bound:.3g}; the largest value is"
            f" {largest(truth.value):.3g}, plain PyTorch is off by {plain_error:.3g} of it"
        )
