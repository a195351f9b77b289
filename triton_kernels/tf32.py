"""Operands of TF32 products that are rounded to nearest, as cuDNN rounds them.

Tensor cores drop the 13 bits of float32 that TF32 lacks, which makes every product too small. Sums of products whose
operands are both truncated are off 2.6 times as far as with both rounded, with one of them rounded 1.6 times. So one
of the two always is: the weight, and for the gradient of the weight that of the output, in a pass of its own, or what a
kernel multiplies by a factor anyway. What the TMA moves it rounds on the way.
"""

import inspect

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .launch import Launcher, cdiv, interpreted, launch
from .operands import input_precision

# The interpreter has no inline assembly, and multiplies in full float32.
_INTERPRETED = tl.constexpr(interpreted)
_BLOCK = 1024
TMA_ROUNDS = "round_f32_to_tf32" in inspect.signature(TensorDescriptor).parameters  # since Triton 3.7


# fmt: off
@triton.jit
def rounded(b_x, PRECISION: tl.constexpr):
    """b_x for a product in this precision; infinities and NaN stay what they are."""
    if PRECISION == "tf32" and b_x.dtype == tl.float32 and not _INTERPRETED:
        b_x = tl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=r,r", [b_x], tl.float32, is_pure=True, pack=1)
    return b_x


@triton.jit
def round_kernel(x, y, size, BLOCK: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + offset, rounded(tl.load(x + offset, mask=offset < size), "tf32"), mask=offset < size)
# fmt: on


def needs_rounding(tensor: Tensor) -> bool:
    """Whether products with the tensor are those of TF32."""
    return tensor.dtype is torch.float32 and input_precision() == "tf32" and not interpreted


def rounded_copy(tensor: Tensor) -> Tensor:
    """A contiguous tensor for products: itself, or a copy where they are those of TF32."""
    if not needs_rounding(tensor):
        return tensor
    copy = torch.empty_like(tensor)
    launch(round_kernel, (cdiv(tensor.numel(), _BLOCK),), tensor, copy, tensor.numel(), BLOCK=_BLOCK, num_warps=4)
    return copy


def rounder(size: int) -> Launcher:
    """Of (tensor, copy) of so many elements, which lie one after the other in memory."""
    return Launcher(round_kernel, (cdiv(size, _BLOCK),), size, BLOCK=_BLOCK, num_warps=4)


def rounding(tensor: Tensor) -> dict[str, bool]:
    """What a descriptor says of a tensor that is multiplied as the TMA brings it, or after a factor."""
    return {"round_f32_to_tf32": True} if TMA_ROUNDS and needs_rounding(tensor) else {}
