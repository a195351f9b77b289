"""The forward of the op by these kernels, for all calls with the sizes, layouts and dtypes of a first one.

What depends on those alone is worked out once: which operands lie in memory as the kernels read them and which need a
copy, what is folded into the weight, and the launches. A call then makes its result and launches.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..call import Call
from . import operands
from .config import Config
from .conv_product import product
from .problem import Problem


def forward(config: Config, problem: Problem, first: Call) -> Callable[[Call], Tensor]:
    """The op, for calls like a first one; not depthwise, and not without samples."""
    input, weight, bias, channel, filter, spatial, *_ = first
    scale = operands.reduction_scale(channel, spatial, problem.in_channels)
    pixels = _as_it_stands(input, input.permute(0, 2, 3, 1).is_contiguous(), operands.pixels)
    taps = _as_it_stands(weight, weight.permute(0, 2, 3, 1).is_contiguous(), operands.taps_of)
    run = product(problem, config, input, scale, operands.sample_scale(filter), bias is not None)
    batch, height, width, filters = run.shape
    shape = (batch, filters, height, width)
    strides = (height * width * filters, 1, width * filters, filters)
    folds = scale.tensor is None and not (channel is None and spatial is None)
    per_sample = None if scale.tensor is None else _reduction_scale(channel, spatial, problem.in_channels)

    def answer(call: Call) -> Tensor:
        input, weight, bias, channel, filter, spatial, *_ = call
        w = operands.folded(operands.taps_of(weight), channel=channel, spatial=spatial) if folds else taps(weight)
        g = None if per_sample is None else per_sample(channel, spatial)
        f = None if filter is None else filter.contiguous()
        y = input.new_empty_strided(shape, strides)
        run(pixels(input), w, g, f, None if bias is None else bias.contiguous(), None, y)
        return y

    return answer


def _as_it_stands(tensor: Tensor, dense: bool, copy: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Kernels get an address: where the memory has the right order they need no view of it in the right shape."""
    return (lambda tensor: tensor) if dense else copy


def _reduction_scale(
    channel: Tensor | None, spatial: Tensor | None, channels: int
) -> Callable[[Tensor | None, Tensor | None], Tensor]:
    """operands.reduction_scale with its shapes worked out."""
    if spatial is None:
        assert channel is not None
        return lambda channel, spatial: channel.contiguous()  # type: ignore[union-attr]
    if channel is None or not (spatial.is_contiguous() and channel.is_contiguous()):
        return lambda channel, spatial: operands.reduction_scale(channel, spatial, channels).tensor
    s_shape = (*spatial.shape[:-2], spatial.shape[-2] * spatial.shape[-1], 1)
    c_shape = (*channel.shape[:-1], 1, channels)
    return lambda channel, spatial: torch.mul(spatial.view(s_shape), channel.view(c_shape))  # type: ignore[union-attr]
