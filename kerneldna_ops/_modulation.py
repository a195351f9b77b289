"""StyleGAN's weight modulation and demodulation, as attentions: styles are c, demodulation is f."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .checks import check_modulated_conv

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
        high = torch.promote_types(dtype, torch.float32)
        weight, filter_scale = _scaled(weight.to(high))
        styles, sample_scale = _scaled(styles.to(high))
        # Nor must a sum over as many products overflow.
        fan_in = math.prod(weight.shape[1:])
        styles = styles / fan_in**0.5
        squares = weight.square().flatten(2)
        energy = styles.square() @ (squares @ squares.new_ones(squares.shape[2])).T  # sum() of few taps is slower
        epsilon = _EPSILON / fan_in / (sample_scale.double() * filter_scale.flatten()).square()
        return weight.to(dtype), styles.to(dtype), torch.rsqrt(energy + epsilon).to(dtype)


def _scaled(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Each tensor[i] divided by its largest absolute value, and these values [.., 1, ..].

    So neither the tensors nor their products overflow (StyleGAN2-ADA, arXiv 2006.06676, for float16). Demodulation
    divides by the size of both, so that their scale is of no account, but for epsilon, which follows it. Therefore it
    is no variable of the gradient either.
    """
    values, dims = tensor.detach(), tuple(range(1, tensor.dim()))
    # Not of abs(), which would be another pass over the weight.
    largest = torch.maximum(values.amax(dims, True), -values.amin(dims, True)).clamp_min(torch.finfo(tensor.dtype).tiny)
    return tensor / largest, largest


def _in_autocast(x: Any) -> bool:
    if not isinstance(x, Tensor) or not torch.amp.is_autocast_available(x.device.type):
        return False
    return torch.is_autocast_enabled(x.device.type)
