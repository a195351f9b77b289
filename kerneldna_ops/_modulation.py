"""StyleGAN's weight modulation and demodulation, as attentions: styles are c, demodulation is f."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ._eager import is_eager
from .checks import check_modulated_conv

_EPSILON = 1e-8
_LARGEST_SQUARE = 1e18  # times the smallest number of float32 still far below epsilon


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
        if dtype == high and x.dtype == high:
            squares = styles.square(), weight.square().sum((2, 3))
            if _are_moderate(*squares):
                return weight, styles, torch.rsqrt(squares[0] @ squares[1].T + _EPSILON)
        weight, filter_scale = _scaled(weight.to(high))
        styles, sample_scale = _scaled(styles.to(high))
        # Nor must a sum over as many products overflow.
        fan_in = math.prod(weight.shape[1:])
        styles = styles / fan_in**0.5
        energy = styles.square() @ weight.square().sum((2, 3)).T
        epsilon = _EPSILON / fan_in / (sample_scale.double() * filter_scale.flatten()).square()
        return weight.to(dtype), styles.to(dtype), torch.rsqrt(energy + epsilon).to(dtype)


def _are_moderate(*squares: Tensor) -> bool:
    """Whether sums of products of these neither overflow nor lose beside epsilon what is too small for float32.

    Then nothing has to be scaled, which passes over the weight. Only eager calls on the CPU may look at values: on a
    GPU the host would wait, and a graph would break.
    """
    if not is_eager() or not all(type(tensor) is Tensor and tensor.is_cpu and tensor.numel() for tensor in squares):
        return False
    return all(tensor.detach().amax().item() <= _LARGEST_SQUARE for tensor in squares)


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
