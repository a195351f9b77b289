"""The weight gradient as one matrix product over the pixels of all samples.

With p a pixel of the output, p@t the pixel of the input that tap t of p lies on, and g[n,t,i] = s[n,t] * c[n,i],

    dW[o, t, i] = sum_n sum_p (g[n, t, i] * x[n, p@t, i]) * (f[n, o] * gy[n, p, o])

A program owns the [BC, BO] tile of one tap and runs through the pixels of all samples in steps of BP, gathering the
columns of x from where the tap lies. Steps run across samples, so that small maps waste nothing; f and g are then tiles
as gy and x are. x is the left operand: it is the one scaled in the published networks (c per sample, f and s static),
and a left operand can be scaled on its way to the tensor cores, while a right one takes a detour by shared memory.

There are few tiles and many pixels. SPLIT_K programs share the pixels of a tile, each writes its part in float32, and
the parts are added in a fixed order: no atomics, the same bits on every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import Config
from .launch import cdiv, launch
from .operands import ABSENT, Scale, input_precision
from .problem import Problem
from .tf32 import rounded, rounded_copy


# fmt: off
@triton.jit
def first_pixels(o_p, tap, OH, OW, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr,
                 DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr):
    """Sample, row and column in the input of a tap of output pixels, which count through all samples."""
    h = o_p // OW % OH * SH + (tap // KW * DH - PH)
    w = o_p % OW * SW + (tap % KW * DW - PW)
    return o_p // (OH * OW), h, w


@triton.jit
def next_pixels(b_n, b_h, b_w, tap, OH, OW, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr,
                DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, BP: tl.constexpr):
    """Those of the pixels BP further on, without the divisions, which would cost more than the tensor cores' work."""
    b_w += BP % OW * SW
    wraps = b_w >= OW * SW + (tap % KW * DW - PW)
    b_w = tl.where(wraps, b_w - OW * SW, b_w)
    b_h += tl.where(wraps, BP // OW % OH * SH + SH, BP // OW % OH * SH)
    wraps = b_h >= OH * SH + (tap // KW * DH - PH)
    b_h = tl.where(wraps, b_h - OH * SH, b_h)
    b_n += tl.where(wraps, BP // OW // OH + 1, BP // OW // OH)
    return b_n, b_h, b_w


@triton.jit
def within(index, size):
    """0 <= index < size in one comparison: below zero an unsigned number is beyond any size."""
    return index.to(tl.uint32, bitcast=True) < size.to(tl.uint32)


@triton.jit(do_not_specialize=["N", "H", "W", "OH", "OW", "steps"])
def weight_gradient_kernel(
    x, gy, g, f, parts, N, H, W, OH, OW, stride_gn, stride_gt, stride_fn, steps,
    C: tl.constexpr, O: tl.constexpr, GROUPS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    PRECISION: tl.constexpr,
    BC: tl.constexpr, BO: tl.constexpr, BP: tl.constexpr, STAGES: tl.constexpr,
):
    """parts [SPLIT_K, GROUPS*O, T, C] from x [N, H, W, GROUPS*C] and gy [N, OH, OW, GROUPS*O].

    grid: blocks of channels, of each tap, of filters; GROUPS; SPLIT_K, each of `steps` steps.
    """
    T: tl.constexpr = KH * KW
    BLOCKS_C: tl.constexpr = (C + BC - 1) // BC
    UNPADDED: tl.constexpr = T == 1 and SH == 1 and SW == 1 and PH == 0 and PW == 0
    o_c = tl.program_id(0) % BLOCKS_C * BC + tl.arange(0, BC)
    tap = tl.program_id(0) // BLOCKS_C % T
    o_o = tl.program_id(0) // (BLOCKS_C * T) * BO + tl.arange(0, BO)
    m_c = o_c < C
    m_o = o_o < O
    i_group = tl.program_id(1)
    i_split = tl.program_id(2)
    p_x = x + i_group * C + o_c[:, None]
    p_y = gy + i_group * O + o_o[None, :]
    if g is not None:
        p_g = g + tap * stride_gt + i_group * C + o_c[:, None]
    if f is not None:
        p_f = f + i_group * O + o_o[None, :]

    rows = N * OH * OW
    # No program is without steps; ptxas waits for each product before the next if the loop might be empty.
    first = i_split * steps
    last = tl.minimum(first + steps, tl.cdiv(rows, BP))
    tl.assume(first < last)
    b_m = first * BP + tl.arange(0, BP)
    b_n, b_h, b_w = first_pixels(b_m, tap, OH, OW, KW, SH, SW, DH, DW, PH, PW)
    b_acc = tl.zeros((BC, BO), tl.float32)
    for _ in tl.range(first, last, num_stages=STAGES):
        if UNPADDED:
            row = b_m
            m_x = (b_m < rows)[None, :]
        else:
            row = (b_n * H + b_h) * W + b_w
            m_x = ((b_n < N) & within(b_h, H) & within(b_w, W))[None, :]
        m_y = (b_m < rows)[:, None]
        if C % BC != 0:
            m_x = m_x & m_c[:, None]
        if O % BO != 0:
            m_y = m_y & m_o[None, :]
        b_x = tl.load(p_x + row.to(tl.int64)[None, :] * (GROUPS * C), mask=m_x, other=0.0)
        b_y = tl.load(p_y + b_m.to(tl.int64)[:, None] * (GROUPS * O), mask=m_y, other=0.0)
        # The masks of x and gy serve g and f as well: zeros of the padding stay zeros whatever multiplies them.
        if g is not None:
            b_x = b_x * tl.load(p_g + b_n.to(tl.int64)[None, :] * stride_gn, mask=m_x, other=0.0)
        if f is not None:
            p_sample = p_f + (b_m // (OH * OW)).to(tl.int64)[:, None] * stride_fn
            b_y = rounded(b_y * tl.load(p_sample, mask=m_y, other=0.0), PRECISION)
        b_acc = tl.dot(b_x, b_y, b_acc, input_precision=PRECISION)
        b_m += BP
        b_n, b_h, b_w = next_pixels(b_n, b_h, b_w, tap, OH, OW, KW, SH, SW, DH, DW, PH, PW, BP)

    o_parts = ((i_split * GROUPS + i_group).to(tl.int64) * O + o_o) * (T * C) + tap * C
    tl.store(parts + o_parts[None, :] + o_c[:, None], b_acc, mask=m_c[:, None] & m_o[None, :])
# fmt: on


def weight_gradient(
    grad_output: Tensor,
    x: Tensor,
    problem: Problem,
    config: Config,
    g: Scale = ABSENT,
    f: Scale = ABSENT,
) -> Tensor:
    """dW [O, T, C/groups] in float32, of contiguous grad_output [N, OH, OW, O] and x [N, H, W, C].

    g [N, T, C] scales x, f [N, O] grad_output. block_m, block_n, block_k of config: channels, filters and pixels.
    Workspace: split_k * dW in float32, where split_k > 1.
    """
    channels, filters = problem.per_group
    all_steps = cdiv(problem.out_pixels, config.block_k)
    steps = cdiv(all_steps, config.split_k)
    split_k = cdiv(all_steps, steps)  # without programs that would have no step
    parts = x.new_empty(split_k, problem.out_channels, problem.taps, channels, dtype=torch.float32)
    launch(
        weight_gradient_kernel,
        (weight_blocks(problem, config), problem.groups, split_k),
        *(x, rounded_copy(grad_output) if f.tensor is None else grad_output, g.tensor, f.tensor, parts, problem.batch),
        *(problem.height, problem.width, problem.out_height, problem.out_width, *g[1:], f.sample_stride, steps),
        *(channels, filters, problem.groups, *problem.geometry),
        PRECISION=input_precision(),
        **config.tile("BC", "BO", "BP"),
    )
    return parts[0] if split_k == 1 else parts.sum(0)


def weight_blocks(problem: Problem, config: Config) -> int:
    """How many tiles the weight of one group has."""
    channels, filters = problem.per_group
    return cdiv(channels, config.block_m) * problem.taps * cdiv(filters, config.block_n)
