"""The input gradient tap by tap, which gives the gradients of channel and spatial attention on the way.

With q a pixel of the input, p(q, t) the pixel of the output whose tap t lies on q, and of the taps t that have one,

    u[q, t, i] = sum_o W[o, t, i] * f[n, o] * gy[p(q, t), o]

    dx[q, i] = c[n, i] * sum_t s[n, t] * u[q, t, i]
    dc[n, i] = sum_q x[q, i] * sum_t s[n, t] * u[q, t, i]
    ds[n, t] = sum_q sum_i c[n, i] * x[q, i] * u[q, t, i]

conv_forward.py makes dx and dc as one matrix product over (t, o), with s on its left operand. Here the product stops
after each tap: u goes into the sum over taps with its s and, times c * x, into the sum for ds. This costs some
instructions for each pixel, channel and tap, whatever the product over the filters costs: right for layers with many
filters, while conv_sample_blocks.py is for large maps.

Rows are pixels q of one remainder modulo the stride (a "class"), as in conv_forward.py. The sum over the channels of a
tile is stored at [p(q, t), t], another element for each (q, t); a tap that lies on the padding stores nothing. These
sums are added per sample in a fixed order: no atomics, the same bits on every run.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import Config
from .conv_forward import dot_segments, first_tap, sample_sums, store_sample_sums
from .conv_weight_gradient import within
from .launch import cdiv, launch
from .operands import Scale, input_precision
from .problem import Problem
from .tf32 import rounded_copy


# fmt: off
@triton.jit(do_not_specialize=["N", "H", "W", "OH", "OW", "tiles"])
def spatial_gradient_kernel(
    gy, w, f, s, c, x, dx, dots, sums, N, H, W, OH, OW, stride_fn, stride_cn, tiles,
    C: tl.constexpr, O: tl.constexpr, GROUPS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr, SEGMENTS: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):
    """dx [N, H, W, GROUPS*C], dots [classes, tiles, SEGMENTS, GROUPS*C] and sums [N, T, GROUPS*BLOCKS_N, OH*OW], zeros
    at first, from gy [N, OH, OW, GROUPS*O], w [GROUPS*O, T, C], s [N, T] and x like dx.

    grid: blocks of pixels and of channels (the channels of one block of pixels side by side), GROUPS * classes.
    """
    T: tl.constexpr = KH * KW
    CLASSES: tl.constexpr = SH * SW
    BLOCKS_N: tl.constexpr = (C + BN - 1) // BN
    BLOCKS_K: tl.constexpr = (O + BK - 1) // BK
    i_tile = tl.program_id(0) // BLOCKS_N
    i_block = tl.program_id(0) % BLOCKS_N
    i_group = tl.program_id(1) // CLASSES
    class_h = tl.program_id(1) % CLASSES // SW
    class_w = tl.program_id(1) % SW
    o_n = i_block * BN + tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    m_n = o_n < C

    # Rows are the pixels of this class. Those beyond the end stand on the last pixel: computed, but not stored.
    CW = (W - class_w + SW - 1) // SW
    P = (H - class_h + SH - 1) // SH * CW
    if i_tile * BM >= N * P:
        return
    o_m = i_tile * BM + tl.arange(0, BM)
    m_m = o_m < N * P
    o_m = tl.minimum(o_m, N * P - 1)
    b_n = (o_m // P).to(tl.int64)
    o_h = o_m % P // CW
    o_w = o_m % CW

    # Tap (i, j) of this class is tap (u0 + i*STEP_H, v0 + j*STEP_W) of the kernel and comes from (h0 - i*DELTA_H, ..).
    DELTA_H: tl.constexpr = STEP_H * DH // SH
    DELTA_W: tl.constexpr = STEP_W * DW // SW
    u0 = first_tap(class_h + PH, SH, DH, KH)
    v0 = first_tap(class_w + PW, SW, DW, KW)
    taps_w = (KW - v0 + STEP_W - 1) // STEP_W
    taps = (KH - u0 + STEP_H - 1) // STEP_H * taps_w
    h0 = o_h + (class_h + PH - u0 * DH) // SH
    w0 = o_w + (class_w + PW - v0 * DW) // SW

    # One bit for each row of taps and one for each column of them: set where the tap comes from gy, not from beyond it.
    bits_h = tl.zeros((BM,), tl.int32)
    bits_w = tl.zeros((BM,), tl.int32)
    for i in tl.static_range(KH):
        bits_h |= (m_m & within(h0 - i * DELTA_H, OH)).to(tl.int32) << i
    for j in tl.static_range(KW):
        bits_w |= within(w0 - j * DELTA_W, OW).to(tl.int32) << j

    p_y = gy + ((b_n * OH + h0) * OW + w0)[:, None] * (GROUPS * O) + i_group * O + o_k[None, :]
    p_w = w + i_group * (T * C * O) + o_k[:, None] * (T * C) + o_n[None, :]
    if f is not None:
        p_f = f + (b_n * stride_fn + i_group * O)[:, None] + o_k[None, :]
    p_sums = sums + ((b_n * T * GROUPS + i_group) * BLOCKS_N + i_block) * (OH * OW) + h0 * OW + w0
    o_x = ((b_n * H + class_h + o_h * SH) * W + class_w + o_w * SW)[:, None] * (GROUPS * C) + i_group * C + o_n[None, :]
    m_x = m_m[:, None] & m_n[None, :]

    b_z = tl.load(x + o_x, mask=m_x, other=0.0)
    if c is not None:
        p_c = c + (b_n * stride_cn + i_group * C)[:, None] + o_n[None, :]
        b_z = b_z * tl.load(p_c, mask=m_x, other=0.0)
    b_acc = tl.zeros((BM, BN), tl.float32)
    b_u = tl.zeros((BM, BN), tl.float32)
    i_h = 0
    i_w = 0
    k = 0
    for _ in tl.range(0, taps * BLOCKS_K, num_stages=STAGES):
        t = (u0 + i_h * STEP_H) * KW + v0 + i_w * STEP_W
        m_t = ((bits_h >> i_h) & (bits_w >> i_w) & 1) != 0
        back = i_h * DELTA_H * OW + i_w * DELTA_W
        m_y = m_t[:, None]
        m_k = k + o_k < O
        m_w = m_n[None, :]
        if O % BK != 0:
            m_y = m_y & m_k[None, :]
            m_w = m_w & m_k[:, None]
        b_y = tl.load(p_y + (k - back * (GROUPS * O)), mask=m_y, other=0.0)
        if f is not None:
            b_y = b_y * tl.load(p_f + k, mask=m_y, other=0.0)
        if O % BK == 0 and C % BN == 0:
            b_w = tl.load(p_w + (t * C + k * (T * C)))
        else:
            b_w = tl.load(p_w + (t * C + k * (T * C)), mask=m_w, other=0.0)
        b_u = tl.dot(b_y, b_w, b_u, input_precision=PRECISION)
        k += BK
        if k >= O:
            tl.store(p_sums + (t * (GROUPS * BLOCKS_N * OH * OW) - back), tl.sum(b_u * b_z, 1), mask=m_t)
            # The mask keeps an infinite s from making NaN of the zeros beyond gy.
            b_acc += b_u * tl.load(s + b_n * T + t, mask=m_t, other=0.0).to(tl.float32)[:, None]
            b_u = tl.zeros((BM, BN), tl.float32)
            k = 0
            i_h = tl.where(i_w + 1 == taps_w, i_h + 1, i_h)
            i_w = tl.where(i_w + 1 == taps_w, 0, i_w + 1)

    if dots is not None:
        b_dot = b_acc * tl.load(x + o_x, mask=m_x, other=0.0).to(tl.float32)
        row = ((class_h * SW + class_w) * tiles + i_tile).to(tl.int64) * SEGMENTS
        p_dots = dots + row * (GROUPS * C) + i_group * C + o_n
        store_sample_sums(p_dots, b_dot, m_m, b_n - i_tile * BM // P, m_n, GROUPS * C, SEGMENTS)
    if c is not None:
        b_acc = b_acc * tl.load(p_c, mask=m_x, other=0.0).to(tl.float32)
    tl.store(dx + o_x, b_acc.to(dx.dtype.element_ty), mask=m_x)
# fmt: on


class SpatialGradients(NamedTuple):
    """dx [N, H, W, C]; in float32 dc [N, C], None if it was not asked for, and ds [N, T]."""

    input: Tensor
    channel: Tensor | None
    spatial: Tensor


def spatial_gradients(
    grad_output: Tensor,
    x: Tensor,
    w: Tensor,
    problem: Problem,
    config: Config,
    s: Tensor,
    f: Scale,
    c: Scale,
    for_channel: bool,
) -> SpatialGradients:
    """Of contiguous grad_output [N, OH, OW, O], x [N, H, W, C], w [O, T, C/groups] and s [N, T].

    Workspace in float32: T * blocks of channels for each output pixel, and for dc at most (segments + 1)/block_m of dx.
    """
    batch, groups, taps, in_channels = problem.batch, problem.groups, problem.taps, problem.in_channels
    channels, filters = problem.per_group
    stride_h, stride_w = problem.stride
    # Of the classes, the first is the largest and the last the smallest.
    tiles = cdiv(batch * cdiv(problem.height, stride_h) * cdiv(problem.width, stride_w), config.block_m)
    segments = dot_segments(config, problem.height // stride_h * (problem.width // stride_w))

    blocks = cdiv(channels, config.block_n)
    out_pixels = problem.out_height * problem.out_width
    dx = torch.empty_like(x)
    sums = x.new_zeros(batch, taps, groups * blocks * out_pixels, dtype=torch.float32)
    dots_shape = (1, stride_h * stride_w, tiles, segments, in_channels)
    dots = x.new_empty(dots_shape, dtype=torch.float32) if for_channel else None
    launch(
        spatial_gradient_kernel,
        (tiles * blocks, groups * stride_h * stride_w, 1),
        *(grad_output, rounded_copy(w), f.tensor, s, c.tensor, x, dx, dots, sums, batch),
        *(problem.height, problem.width, problem.out_height, problem.out_width),
        *(f.sample_stride, c.sample_stride, tiles),
        *(channels, filters, groups, *problem.geometry, *problem.tap_step),
        SEGMENTS=segments,
        PRECISION=input_precision(),
        **config.tile("BM", "BN", "BK"),
    )
    ds = sums.sum(2)
    if dots is None:
        return SpatialGradients(dx, None, ds)
    dc = sample_sums(dots, batch, problem.height, problem.width, problem.stride, config.block_m)
    return SpatialGradients(dx, dc, ds)
