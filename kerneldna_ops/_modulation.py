"""StyleGAN's weight modulation and demodulation, as attentions: styles are c, demodulation is f."""

import math
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ._eager import is_eager

_LARGEST_PRODUCT = 1e36  # that float32 has room for, sums of many among them
_LARGEST_OF_EPS = 1e44  # and of which, times eps, the smallest number of float32 times it is still below eps

Attentions: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def attentions(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool,
    autocast: bool,
    input_gain: Tensor | float | None = None,
    kernel_attention: Tensor | None = None,
    eps: float = 1e-8,
    clamped: bool = False,
) -> Attentions:
    """(weight, c [N, C_in], f [N, C_out] or None, a [N, K] or None) in the dtype that the convolution runs in.

    autocast is what in_autocast says of x, and the arguments fit together. eps is added to the squares of the norms or,
    where clamped, the least that they are.
    """
    dtype = torch.get_autocast_dtype(x.device.type) if autocast and x.dtype != torch.float64 else x.dtype
    a, f = kernel_attention, None
    # A matrix product of float32 stays in float32 outside of autocast only.
    with torch.autocast(x.device.type, enabled=False) if autocast else nullcontext():
        if demodulate:
            high = torch.promote_types(dtype, torch.float32)
            unscaled = x.dtype == dtype == high
            weight, styles, a, f = _demodulated(weight, styles, a, high, eps, clamped, unscaled)
        c = styles if input_gain is None else styles * input_gain
        return weight.to(dtype), c.to(dtype), None if f is None else f.to(dtype), None if a is None else a.to(dtype)


def _demodulated(
    weight: Tensor, styles: Tensor, a: Tensor | None, high: torch.dtype, eps: float, clamped: bool, unscaled: bool
) -> Any:
    """(weight, styles, a, demodulation), the first three scaled where they are for low precision, or large."""
    if unscaled:
        by_sample, by_filter = energies(weight, styles, a)
        squares = (styles.square(), by_filter) if a is None else (styles.square(), a.square(), by_filter)
        if _are_moderate(eps, *squares):
            return weight, styles, a, _of_energy(by_sample @ by_filter.T, eps, clamped)
    weight, filter_scale = _scaled(weight.to(high), weight.dim() - 4)
    styles, sample_scale = _scaled(styles.to(high))
    sample_scale = sample_scale.double()
    # Nor must a sum over as many products overflow, of channels and taps and of kernels.
    fan_in = math.prod(weight.shape[-3:])
    styles = styles / fan_in**0.5
    if a is not None:
        a, share = _scaled(a.to(high))
        kernels = len(weight.unbind())
        a, sample_scale = a / kernels, sample_scale * (share.double() * kernels)
    by_sample, by_filter = energies(weight, styles, a)
    epsilon = eps / fan_in / (sample_scale * filter_scale.flatten()).square()
    return weight, styles, a, _of_energy(by_sample @ by_filter.T, epsilon, clamped)


def energies(weight: Tensor, styles: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor]:
    """[N, ..] and [C_out, ..], of whose products the sums are the squares of the weights of each sample, summed.

    So no sample's weight has to be made: sum_iuv (w[o,i,u,v] * s[n,i])^2 is the matrix product of s^2 and sum_uv w^2,
    and of a mixture of kernels it is one for each pair (k, l) of them, with a[n,k] * a[n,l] * s^2 and sum_uv w_k * w_l.
    """
    if a is None:
        return styles.square(), weight.square().sum((2, 3))
    kernels = weight.unbind()
    products = [(weight[k:] * kernel).sum((3, 4)) for k, kernel in enumerate(kernels)]
    # (k, l) and (l, k) are the same.
    shares = [share * torch.cat([share, 2 * a[:, k + 1 :]], 1) for k, share in enumerate(a.split(1, 1))]
    by_sample = torch.cat(shares, 1)[:, :, None] * styles.square()[:, None]
    return by_sample.flatten(1), torch.cat(products).transpose(0, 1).flatten(1)


def _of_energy(energy: Tensor, epsilon: Tensor | float, clamped: bool) -> Tensor:
    """StyleGAN adds epsilon, GigaGAN clamps at it: a mixture's energy may come out a little negative."""
    if not clamped:
        return torch.rsqrt(energy + epsilon)
    return torch.rsqrt(energy.clamp_min(epsilon) if isinstance(epsilon, float) else torch.maximum(energy, epsilon))


def _are_moderate(eps: float, *squares: Tensor) -> bool:
    """Whether sums of products of these neither overflow nor lose beside eps what is too small for float32.

    Then nothing has to be scaled, which passes over the weight. Only eager calls on the CPU may look at values: on a
    GPU the host would wait, and a graph would break.
    """
    if not is_eager() or not all(type(tensor) is Tensor and tensor.is_cpu and tensor.numel() for tensor in squares):
        return False
    largest = min(_LARGEST_PRODUCT, eps * _LARGEST_OF_EPS) ** (1 / len(squares))
    return all(tensor.detach().amax().item() <= largest for tensor in squares)


def _scaled(tensor: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """What belongs to each index of this dimension divided by its largest absolute value, and these [.., 1, ..].

    So neither the tensors nor their products overflow (StyleGAN2-ADA, arXiv 2006.06676, for float16). Demodulation
    divides by the size of both, so that their scale is of no account, but for epsilon, which follows it. Therefore it
    is no variable of the gradient either.
    """
    values, dims = tensor.detach(), [other for other in range(tensor.dim()) if other != dim]
    # Not of abs(), which would be another pass over the weight.
    largest = torch.maximum(values.amax(dims, True), -values.amin(dims, True)).clamp_min(torch.finfo(tensor.dtype).tiny)
    return tensor / largest, largest


def in_autocast(x: Any) -> bool:
    if not isinstance(x, Tensor) or not torch.amp.is_autocast_available(x.device.type):
        return False
    return torch.is_autocast_enabled(x.device.type)
