"""StyleGAN's weight modulation and demodulation, as attentions: styles are c, demodulation is f."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ._checks import check_modulated_conv

_EPSILON = 1e-8


def attentions(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(weight, c [N, C_in], f [N, C_out] or None) in the dtype that the convolution runs in.

    Without weights for each sample: sum_iuv (w[o,i,u,v] * s[n,i])^2 is the matrix product of s^2 and sum_uv w^2.
    """
    autocast = _in_autocast(x)
    if torch._C._get_tracing_state() is None:  # to compare sizes would be recorded, with a warning
        check_modulated_conv("modulated_conv2d", x, weight, styles, autocast)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast and x.dtype != torch.float64 else x.dtype
    if not demodulate:
        return weight.to(dtype), styles.to(dtype), None
    # A matrix product of float32 stays in float32 outside of autocast only.
    with torch.autocast(x.device.type, enabled=False) if autocast else nullcontext():
        if dtype == torch.float16:
            weight, styles = _within_float16(weight.float(), styles.float())
        at_least_float32 = torch.promote_types(dtype, torch.float32)
        energy = styles.to(at_least_float32).square() @ weight.to(at_least_float32).square().sum((2, 3)).T
        return weight.to(dtype), styles.to(dtype), torch.rsqrt(energy + _EPSILON).to(dtype)


def _within_float16(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Both so small that neither they nor their products overflow (StyleGAN2-ADA, arXiv 2006.06676, for float16).

    Demodulation divides by the size of both, so that their scale is of no account, but for epsilon. Therefore it is no
    variable of the gradient either.
    """
    fan_in = math.prod(weight.shape[1:])
    return weight / (_largest(weight, (1, 2, 3)) * fan_in**0.5), styles / _largest(styles, (1,))


def _largest(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The largest absolute value, 1 where all are zero."""
    largest = tensor.detach().abs().amax(dims, keepdim=True)
    return torch.where(largest > 0, largest, 1)


def _in_autocast(x: Any) -> bool:
    if not isinstance(x, Tensor) or not torch.amp.is_autocast_available(x.device.type):
        return False
    return torch.is_autocast_enabled(x.device.type)
