"""Dynamic convolution as a function: torch.nn.functional.conv2d plus three attentions over its weight."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_conv
from .backends import call, use_backend

_conv = torch.ops.kerneldna.conv.default

Pair = int | tuple[int, int]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | Literal["same", "valid"] = 0,
    dilation: Pair = 1,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Convolve each sample with `weight`, modulated for that sample; its kernel is never materialised.

    y[n,o,p] = f[n,o] * sum_uv s[n,u,v] * sum_i weight[o,i,u,v] * c[n,i] * input[n,i, p*stride + (u,v)*dilation - padding]
    + bias[o], the general form of KernelDNA's child(x) = conv(x * c, W * (1 + s) * (1 + f)) (arXiv 2503.23379). The
    attentions are factors: the caller adds the 1.

    Args:
        input: [N, C_in, H, W] of float64, float32, float16 or bfloat16. The output is channels_last if it is.
        weight: [C_out, C_in/groups, kh, kw].
        bias: [C_out].
        channel_attention: c, [N, C_in] per sample or [C_in] for all.
        filter_attention: f, [N, C_out] per sample or [C_out] for all.
        spatial_attention: s, over the taps of the kernel, [N, kh, kw] per sample or [kh, kw] for all.
        stride, padding, dilation, groups: as for torch.nn.functional.conv2d, "same" and "valid" included.
        backend: run this call and its backward on this backend (see `compatible_backends`); None leaves the choice to
            `use_backend`, KERNELDNA_BACKEND and what was measured, in this order.

    Returns:
        [N, C_out, H_out, W_out], differentiable to any order with respect to all six tensors.

    Raises:
        TypeError: an argument is of the wrong type, or its dtype is not that of input.
        ValueError: a shape, device or number does not fit, or there is no such backend.
        RuntimeError: the backend cannot run this call.
    """
    dilation = _pair(dilation)
    if isinstance(padding, str):
        input, padding = _named_padding(input, weight, padding, stride, dilation)
    attentions = (channel_attention, filter_attention, spatial_attention)
    args = (input, weight, bias, *attentions, _pair(stride), _pair(padding), dilation, groups)
    if torch.compiler.is_compiling() and backend is None:
        return _conv(*args)
    try:
        if backend is None:
            return call(_conv, *args)
        with use_backend(backend):
            return call(_conv, *args)
    except (RuntimeError, TypeError):
        # The op checks everything itself; all that is left to do here is to tell the kinds of mistakes apart.
        check_conv("conv2d", *args)
        raise


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _named_padding(
    input: Tensor, weight: Tensor, padding: str, stride: Pair, dilation: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """The input, and the padding in numbers. An odd total puts one more row or column at the end, as F.conv2d does."""
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise ValueError(f"conv2d: padding must be an int, a pair of ints, 'same' or 'valid', got {padding!r}")
    if _pair(stride) != (1, 1):
        raise ValueError(f"conv2d: padding='same' needs a stride of 1, got {stride}")
    height, width = (d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True))
    if height % 2 or width % 2:
        input = F.pad(input, (0, width % 2, 0, height % 2))
    return input, (height // 2, width // 2)
