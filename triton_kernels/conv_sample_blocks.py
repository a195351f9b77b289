"""The gradients of weight and attentions out of each sample's own weight gradient, which never leaves the registers.

With p a pixel of the output, p@t the pixel of the input that tap t of p lies on, and g[n,t,i] = s[n,t] * c[n,i], let

    D[n, o, t, i] = sum_p gy[n, p, o] * x[n, p@t, i]

be what the weight of sample n alone would get as its gradient. All that is wanted is a weighted sum of it:

    dW[o, t, i] = sum_n     f[n, o] * g[n, t, i] * D[n, o, t, i]
    df[n, o]    = sum_(t,i) W[o, t, i] * g[n, t, i] * D[n, o, t, i]
    dg[n, t, i] = sum_o     W[o, t, i] * f[n, o] * D[n, o, t, i]

    dc[n, i] = sum_t s[n, t] * dg[n, t, i]        ds[n, t] = sum_i c[n, i] * dg[n, t, i]

A program owns the [BC, BO] tile of one tap for some of the samples: it makes D of one sample after another as a matrix
product over the sample's pixels, and adds it to dW and its sums over rows and columns to df and dg. Nothing is divided
by f, c or s. These sums cost some instructions for each element of the weight and sample, whatever the product over its
pixels costs: right for large maps, while conv_spatial_gradient.py is for small ones.

Tiles write what they know in float32, and it is added in a fixed order: no atomics, the same bits on every run.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import Config
from .conv_weight_gradient import first_pixels, next_pixels, weight_blocks, within
from .launch import cdiv, launch
from .operands import Scale, input_precision
from .problem import Problem
from .tf32 import rounded_copy


# fmt: off
@triton.jit(do_not_specialize=["N", "H", "W", "OH", "OW", "samples"])
def sample_blocks_kernel(
    x, gy, w, g, f, weights, filters, scales, N, H, W, OH, OW, stride_gn, stride_gt, stride_fn, samples,
    C: tl.constexpr, O: tl.constexpr, GROUPS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    PRECISION: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr, BP: tl.constexpr, STAGES: tl.constexpr,
):
    """From x [N, H, W, GROUPS*C], gy [N, OH, OW, GROUPS*O] and w [GROUPS*O, T, C], the parts

        weights [SPLIT_K, GROUPS*O, T, C], filters [T*BLOCKS_C, N, GROUPS*O], scales [BLOCKS_O, N, T, GROUPS*C],

    each of them if it is given.

    grid: blocks of channels, of each tap, of filters; GROUPS; SPLIT_K, each of `samples` samples.
    """
    T: tl.constexpr = KH * KW
    BLOCKS_C: tl.constexpr = (C + BC - 1) // BC
    i_c = tl.program_id(0) % BLOCKS_C
    tap = tl.program_id(0) // BLOCKS_C % T
    i_o = tl.program_id(0) // (BLOCKS_C * T)
    i_group = tl.program_id(1)
    i_split = tl.program_id(2)
    o_c = i_c * BC + tl.arange(0, BC)
    o_o = i_o * BO + tl.arange(0, BO)
    m_c = o_c < C
    m_o = o_o < O
    m_w = m_c[:, None] & m_o[None, :]
    # The channels and filters among those of all groups, and the elements of the weight.
    o_i = i_group * C + o_c
    o_f = i_group * O + o_o
    o_w = o_f[None, :] * (T * C) + tap * C + o_c[:, None]

    P = OH * OW
    first_n, first_h, first_w = first_pixels(tl.arange(0, BP), tap, OH, OW, KW, SH, SW, DH, DW, PH, PW)
    if filters is not None or scales is not None:
        b_weight = tl.load(w + o_w, mask=m_w, other=0.0)
    b_acc = tl.zeros((BC, BO), tl.float32)
    for i_n in range(i_split * samples, tl.minimum((i_split + 1) * samples, N)):
        i_n = tl.cast(i_n, tl.int64)
        p_x = x + i_n * H * W * (GROUPS * C) + o_i[:, None]
        p_y = gy + i_n * P * (GROUPS * O) + o_f[None, :]
        b_p = tl.arange(0, BP)
        b_n, b_h, b_w = first_n, first_h, first_w
        b_d = tl.zeros((BC, BO), tl.float32)
        for _ in tl.range(0, tl.cdiv(P, BP), num_stages=STAGES):
            # Beyond the sample both are zero, for zero times an infinite x would not be.
            m_x = ((b_p < P) & within(b_h, H) & within(b_w, W))[None, :]
            m_y = (b_p < P)[:, None]
            if C % BC != 0:
                m_x = m_x & m_c[:, None]
            if O % BO != 0:
                m_y = m_y & m_o[None, :]
            b_x = tl.load(p_x + (b_h * W + b_w)[None, :] * (GROUPS * C), mask=m_x, other=0.0)
            b_y = tl.load(p_y + b_p[:, None] * (GROUPS * O), mask=m_y, other=0.0)
            b_d = tl.dot(b_x, b_y, b_d, input_precision=PRECISION)
            b_p += BP
            b_n, b_h, b_w = next_pixels(b_n, b_h, b_w, tap, OH, OW, KW, SH, SW, DH, DW, PH, PW, BP)

        if filters is not None or scales is not None:
            b_wd = b_d * b_weight.to(tl.float32)
        if g is not None:
            b_g = tl.load(g + i_n * stride_gn + tap * stride_gt + o_i, mask=m_c, other=0.0).to(tl.float32)
        if f is not None:
            b_f = tl.load(f + i_n * stride_fn + o_f, mask=m_o, other=0.0).to(tl.float32)
        if filters is not None:
            b_sum = tl.sum(b_wd * b_g[:, None] if g is not None else b_wd, 0)
            tl.store(filters + ((tap * BLOCKS_C + i_c) * N + i_n) * (GROUPS * O) + o_f, b_sum, mask=m_o)
        if scales is not None:
            b_sum = tl.sum(b_wd * b_f[None, :] if f is not None else b_wd, 1)
            tl.store(scales + ((i_o * N + i_n) * T + tap) * (GROUPS * C) + o_i, b_sum, mask=m_c)
        if weights is not None:
            if g is not None:
                b_d = b_d * b_g[:, None]
            if f is not None:
                b_d = b_d * b_f[None, :]
            b_acc += b_d
    if weights is not None:
        tl.store(weights + i_split.to(tl.int64) * (GROUPS * O * T * C) + o_w, b_acc, mask=m_w)
# fmt: on


class SampleGradients(NamedTuple):
    """In float32: dW [O, T, C/groups], df [N, O] and dg [N, T, C]; None if it was not asked for."""

    weight: Tensor | None
    filter: Tensor | None
    scale: Tensor | None


def sample_gradients(
    grad_output: Tensor,
    x: Tensor,
    w: Tensor,
    problem: Problem,
    config: Config,
    g: Scale,
    f: Scale,
    for_weight: bool,
    for_filter: bool,
    for_scale: bool,
) -> SampleGradients:
    """Of contiguous grad_output [N, OH, OW, O], x [N, H, W, C] and w [O, T, C/groups].

    block_m, block_n, block_k of config: channels, filters and pixels. Workspace in float32: for the weight split_k of
    it, for the filters [T * blocks of channels, N, O], for the scale [blocks of filters, N, T, C].
    """
    groups, taps, batch = problem.groups, problem.taps, problem.batch
    channels, filters = problem.per_group

    def parts(wanted: bool, *shape: int) -> Tensor | None:
        return x.new_empty(shape, dtype=torch.float32) if wanted else None

    weight_parts = parts(for_weight, config.split_k, problem.out_channels, taps, channels)
    filter_parts = parts(for_filter, taps * cdiv(channels, config.block_m), batch, problem.out_channels)
    scale_parts = parts(for_scale, cdiv(filters, config.block_n), batch, taps, problem.in_channels)
    launch(
        sample_blocks_kernel,
        (weight_blocks(problem, config), groups, config.split_k),
        *(x, rounded_copy(grad_output), w, g.tensor, f.tensor, weight_parts, filter_parts, scale_parts, batch),
        *(problem.height, problem.width, problem.out_height, problem.out_width),
        *(*g[1:], f.sample_stride, cdiv(batch, config.split_k), channels, filters, groups, *problem.geometry),
        PRECISION=input_precision(),
        **config.tile("BC", "BO", "BP"),
    )
    return SampleGradients(
        *(None if part is None else part.sum(0) for part in (weight_parts, filter_parts, scale_parts))
    )
