"""StyleGAN's modulated convolution without weights for each sample, beside the two published forms.

python examples/stylegan.py"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from kerneldna_ops.functional import modulated_conv2d


def fused_modconv(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """StyleGAN2's: a weight for each sample, and a convolution of N groups."""
    weights = weight[None] * styles[:, None, :, None, None]
    weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), padding=1, groups=len(x))
    return y.view(len(x), -1, *y.shape[2:])


def not_fused(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """StyleGAN2's in training: the input and the output are scaled."""
    norms = (weight[None] * styles[:, None, :, None, None]).square().sum((2, 3, 4)) + 1e-8
    return F.conv2d(x * styles[:, :, None, None], weight, padding=1) * norms.rsqrt()[:, :, None, None]


def ours(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    return modulated_conv2d(x, weight, styles, padding=1)


torch.manual_seed(0)
x, weight, styles = torch.randn(4, 256, 16, 16), torch.randn(256, 256, 3, 3), 1 + 0.5 * torch.randn(4, 256)
forms = (ours, fused_modconv, not_fused)
with torch.no_grad():
    expected = fused_modconv(x, weight, styles)
    times: dict[str, list[float]] = {form.__name__: [] for form in forms}
    for _ in range(20):  # in turns, so that a disturbance hits all
        for form in forms:
            start = time.perf_counter()
            y = form(x, weight, styles)
            times[form.__name__].append(time.perf_counter() - start)
            torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
for name, seconds in times.items():
    print(f"{name:14} {sorted(seconds)[len(seconds) // 2] * 1e3:6.2f} ms")

# A layer that doubles the size: StyleGAN2's conv_transpose2d with its low-pass filter, as one call.
taps = torch.tensor([1.0, 3, 3, 1]) / 8
up = modulated_conv2d(x, weight, styles, padding=1, up=2, resample_filter=torch.outer(taps, taps), flip_weight=False)
print(f"up=2: {list(x.shape)} to {list(up.shape)}")

# GigaGAN's: each sample has its own mixture of four kernels.
kernels, shares = torch.randn(4, 256, 256, 3, 3), torch.randn(4, 4).softmax(1)
mixed = modulated_conv2d(x, kernels, styles, padding=1, kernel_attention=shares)
print(f"a mixture of {len(kernels)} kernels: {list(mixed.shape)}")
