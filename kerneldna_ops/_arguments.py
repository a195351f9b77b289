"""The arguments of conv as the dispatcher hands them to a kernel in Python."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def with_defaults(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> tuple[Any, ...]:
    """All ten of them: of the arguments that equal their defaults the dispatcher drops the last ones."""
    attentions = (channel_attention, filter_attention, spatial_attention)
    return input, weight, bias, *attentions, stride, padding, dilation, groups
