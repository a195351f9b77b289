"""One pass over an image for what aten's convolution leaves to do: a factor per sample and channel, and its gradient.

    out[n, c, p] = a[n, c, p] * scale[n, c],     dots[n, c] = sum_p a[n, c, p] * b[n, c, p]

With a the gradient for the scaled input, b the input and scale channel attention, out is the gradient of the input and
dots that of channel attention. Memory-bound: a and b are read once and out is written once, where separate operations
read a twice and write and read the product with b.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch

_BLOCK_P, _BLOCK_C = 64, 64
_PIXELS_OF_A_PART = 512


# fmt: off
@triton.jit(do_not_specialize=["C", "P", "parts"])
def scale_and_dot_kernel(
    a, b, scale, out, dots, C, P, parts, a_n, a_c, a_p, b_n, b_c, b_p,
    BP: tl.constexpr, BC: tl.constexpr,
):
    """dots [N, parts, C] in float32; out has the strides of a; grid: N * parts, blocks of channels."""
    i_n = (tl.program_id(0) // parts).to(tl.int64)
    i_part = tl.program_id(0) % parts
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < C
    steps = (P + parts * BP - 1) // (parts * BP)
    b_dot = tl.zeros((BC,), tl.float32)
    if scale is not None:
        b_scale = tl.load(scale + i_n * C + o_c, mask=m_c, other=0.0).to(tl.float32)
    for step in range(steps):
        o_p = (i_part * steps + step) * BP + tl.arange(0, BP)
        mask = (o_p < P)[:, None] & m_c[None, :]
        o_a = i_n * a_n + o_p[:, None] * a_p + o_c[None, :] * a_c
        b_a = tl.load(a + o_a, mask=mask, other=0.0).to(tl.float32)
        if dots is not None:
            o_b = i_n * b_n + o_p[:, None] * b_p + o_c[None, :] * b_c
            b_dot += tl.sum(b_a * tl.load(b + o_b, mask=mask, other=0.0).to(tl.float32), 0)
        if scale is not None:
            tl.store(out + o_a, (b_a * b_scale[None, :]).to(out.dtype.element_ty), mask=mask)
    if dots is not None:
        tl.store(dots + (i_n * parts + i_part) * C + o_c, b_dot, mask=m_c)
# fmt: on


def scale_and_dot(a: Tensor, b: Tensor | None, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(out, dots) of images a and b [N, C, H, W], contiguous or channels_last, else copied; scale is [N, C].

    Without a scale, out is a; without b, dots is None, else [N, C] in float32. Workspace: N * C * H * W / 512 numbers.
    """
    if scale is None and b is None:
        return a, None
    a = _dense(a)
    b = None if b is None else _dense(b)
    scale = None if scale is None else scale.contiguous()
    batch, channels, height, width = a.shape
    parts = cdiv(height * width, _PIXELS_OF_A_PART)
    out = a if scale is None else torch.empty_like(a)
    dots = None if b is None else a.new_empty(batch, parts, channels, dtype=torch.float32)
    launch(
        scale_and_dot_kernel,
        (batch * parts, cdiv(channels, _BLOCK_C), 1),
        *(a, b, scale, out, dots, channels, height * width, parts, *_strides(a), *_strides(a if b is None else b)),
        BP=_BLOCK_P,
        BC=_BLOCK_C,
        num_warps=4,
    )
    return out, None if dots is None else dots.sum(1)


def _dense(image: Tensor) -> Tensor:
    if image.is_contiguous(memory_format=torch.channels_last):
        return image
    return image.contiguous()


def _strides(image: Tensor) -> tuple[int, int, int]:
    """Of samples, channels and pixels; sizes of 1 have strides that say nothing, hence not those of the tensor."""
    _, channels, height, width = image.shape
    pixels = height * width
    if image.is_contiguous():
        return channels * pixels, pixels, 1
    return channels * pixels, 1, channels
