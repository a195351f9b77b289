"""Squeeze-and-excitation for inference: gate [N, C] = sigmoid(fc2(relu(fc1(mean of x over H and W)))), two launches.

The arithmetic is nothing, and x is read once; what costs is one launch after the other. So each kernel does as much as
it can until all of its successor's input must be there:

    pool_kernel    sums over the pixels. Where N and C are small, several programs share the pixels of a sample (parts);
                   each writes its float32 sum, and whoever reads them adds them up, in a fixed order.
    gate_kernel    all the rest, for 16 samples and a block of channels. It recomputes the features between fc1 and fc2,
                   which all blocks of channels need: for C = 512 and R = 128 in half precision, 8 blocks each read fc1
                   (128 KB) from the L2 cache once more, against another launch.

BatchNorm, which stands behind fc1, is folded into it by then; squeeze_excite_training.py has it.
All sums run in float32, in an order that does not change from run to run.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch

_BLOCK = 4096  # elements of a block of pixels and channels: 32 for each thread of pool_kernel
_ENOUGH_PROGRAMS = 512  # to fill any GPU
_MOST_PARTS = 32  # of a sample


# fmt: off
@triton.jit
def sigmoid(b_x):
    return 1.0 / (1.0 + tl.exp(-b_x))


@triton.jit
def relu(b_x):
    return tl.where(b_x < 0.0, 0.0, b_x)  # as torch.relu, which lets NaN through


@triton.jit
def load_means(sums, o_n, o_c, N, C, P, parts, BN: tl.constexpr, BC: tl.constexpr):
    """The means [BN, BC] from sums [N, parts, C] over P pixels, in float32."""
    m_s = (o_n < N)[:, None] & (o_c < C)[None, :]
    p_s = sums + (o_n * parts * C)[:, None] + o_c[None, :]
    b_s = tl.zeros((BN, BC), tl.float32)
    # Few samples have many parts: their sums are on the way together, not one after the other.
    for part in tl.range(0, parts, loop_unroll_factor=8 if BN == 16 else 1):
        b_s += tl.load(p_s + part * C, mask=m_s, other=0.0)
    return b_s * (1.0 / P)


@triton.jit(do_not_specialize=["P", "parts"])
def pool_kernel(
    x, sums, batches, P, parts, stride_n, stride_p, stride_c,
    C: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):
    """sums [N, parts, C] of x [N, C, P] over the pixels of each part. batches, a scalar, if given, goes up by one.

    grid: N * parts * blocks of channels.
    """
    if batches is not None and tl.program_id(0) == 0:
        tl.store(batches, tl.load(batches) + 1)
    BLOCKS_C: tl.constexpr = (C + BC - 1) // BC
    i_c = tl.program_id(0) % BLOCKS_C
    i_row = (tl.program_id(0) // BLOCKS_C).to(tl.int64)  # n * parts + part
    per_part = (P + parts * BP - 1) // (parts * BP) * BP
    first = (i_row % parts).to(tl.int32) * per_part
    o_c = i_c * BC + tl.arange(0, BC)
    p_x = x + i_row // parts * stride_n + o_c.to(tl.int64)[None, :] * stride_c
    b_acc = tl.zeros((BP, BC), tl.float32)
    for p in range(first, tl.minimum(first + per_part, P), BP):
        o_p = p + tl.arange(0, BP)
        m_x = (o_p < P)[:, None] & (o_c < C)[None, :]
        b_acc += tl.load(p_x + (o_p.to(tl.int64) * stride_p)[:, None], mask=m_x, other=0.0).to(tl.float32)
    tl.store(sums + i_row * C + o_c, tl.sum(b_acc, 0), mask=o_c < C)


@triton.jit(do_not_specialize=["N", "P", "parts"])
def gate_kernel(
    sums, w1, b1, features, w2, b2, gate, N, P, parts,
    C: tl.constexpr, R: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):
    """gate [N, C] from features [N, R], or from sums [N, parts, C]; w1 [R, C], w2 [C, R].

    grid: blocks of samples, blocks of channels.
    """
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    b_logits = tl.zeros((BN, BC), tl.float32)
    for r in range(0, R, BR):
        o_r = r + tl.arange(0, BR)
        m_r = o_r < R
        if features is not None:
            m_h = (o_n < N)[:, None] & m_r[None, :]
            b_h = tl.load(features + (o_n * R)[:, None] + o_r[None, :], mask=m_h, other=0.0)
        else:
            b_z = tl.zeros((BN, BR), tl.float32)
            for k in range(0, C, BK):
                o_k = k + tl.arange(0, BK)
                b_m = load_means(sums, o_n, o_k, N, C, P, parts, BN, BK).to(w1.dtype.element_ty)
                m_w = (o_k < C)[:, None] & m_r[None, :]
                b_w = tl.load(w1 + o_k[:, None] + (o_r * C)[None, :], mask=m_w, other=0.0)
                b_z = tl.dot(b_m, b_w, b_z, input_precision="ieee")
            if b1 is not None:
                b_z += tl.load(b1 + o_r, mask=m_r, other=0.0).to(tl.float32)[None, :]
            b_h = relu(b_z).to(w2.dtype.element_ty)
        m_w = m_r[:, None] & (o_c < C)[None, :]
        b_w = tl.load(w2 + o_r[:, None] + (o_c * R)[None, :], mask=m_w, other=0.0)
        b_logits = tl.dot(b_h, b_w, b_logits, input_precision="ieee")
    if b2 is not None:
        b_logits += tl.load(b2 + o_c, mask=o_c < C, other=0.0).to(tl.float32)[None, :]
    m_g = (o_n < N)[:, None] & (o_c < C)[None, :]
    tl.store(gate + (o_n * C)[:, None] + o_c[None, :], sigmoid(b_logits).to(gate.dtype.element_ty), mask=m_g)
# fmt: on


def squeeze_excite(
    input: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> Tensor:
    """The op kerneldna::squeeze_excite, whose arguments have been checked, in two launches; no gradient.

    All have one dtype: float32, float16 or bfloat16. Workspace: N * C in float32 for each of 32 parts at most.
    """
    x = Pixels.of(input)
    w1, w2 = fc1_weight.flatten(1).contiguous(), fc2_weight.flatten(1).contiguous()
    b1, b2 = (None if bias is None else bias.contiguous() for bias in (fc1_bias, fc2_bias))
    gate = input.new_empty(input.shape[:2])
    gate_of(pool(x, None), x.pixels, w1, b1, None, w2, b2, gate)
    return gate


class Pixels(NamedTuple):
    """[N, C, H, W] as [N, C, P], which NCHW and channels_last both are, with one distance between all pixels."""

    tensor: Tensor
    batch: int
    channels: int
    pixels: int
    strides: tuple[int, int, int]  # of samples, pixels and channels

    @classmethod
    def of(cls, input: Tensor) -> "Pixels":
        batch, channels, height, width = input.shape
        if height > 1 and width > 1 and input.stride(2) != width * input.stride(3):
            input = input.contiguous()
        stride_n, stride_c, stride_h, stride_w = input.stride()
        return cls(input, batch, channels, height * width, (stride_n, stride_w if width > 1 else stride_h, stride_c))


def pool(x: Pixels, batches: Tensor | None) -> Tensor:
    """Sums [N, parts, C] over the pixels, in float32; batches, if given, goes up by one."""
    block_c = min(64 if x.strides[2] == 1 else 16, triton.next_power_of_2(x.channels))
    block_p = min(_BLOCK // block_c, triton.next_power_of_2(x.pixels))
    blocks_c = cdiv(x.channels, block_c)
    enough = cdiv(_ENOUGH_PROGRAMS, max(x.batch * blocks_c, 1))
    parts = min(enough, cdiv(x.pixels, 2 * block_p), _MOST_PARTS)
    sums = x.tensor.new_empty(x.batch, parts, x.channels, dtype=torch.float32)
    launch(
        pool_kernel,
        (x.batch * parts * blocks_c,),
        *(x.tensor, sums, batches, x.pixels, parts, *x.strides, x.channels),
        BP=block_p,
        BC=block_c,
        num_warps=4,
    )
    return sums


def gate_of(
    sums: Tensor,
    pixels: int,
    w1: Tensor,
    b1: Tensor | None,
    features: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    gate: Tensor,
) -> None:
    batch, parts, channels = sums.shape
    hidden = len(w1)
    block_c = min(64, max(16, triton.next_power_of_2(channels)))
    launch(
        gate_kernel,
        (cdiv(batch, 16), cdiv(channels, block_c)),
        *(sums, w1, b1, features, w2, b2, gate, batch, pixels, parts, channels, hidden),
        BN=16,
        BC=block_c,
        BR=min(128 // gate.itemsize, max(16, triton.next_power_of_2(hidden))),
        BK=64 // gate.itemsize,
        num_warps=4,
    )
