"""Depthwise convolution (groups = C_in = C_out): nothing for tensor cores, so the taps are added up directly.

With one filter per channel, f and c stand on the same channel i and the convolution is

    y[n, p, i] = f[n, i] * sum_t s[n, t] * W[i, t] * (c[n, i] * x[n, p@t, i]) + bias[i]

where p@t is the input pixel under tap t of output pixel p. For 3x3 that is 9 multiply-adds for an element read and one
written, so that memory and the issue of instructions are about equally scarce. A program takes a block of neighbouring
pixels of one sample and a block of channels, and goes over the taps: the T reads of an element lie within one program
or in neighbouring ones, and all but the first are served by the caches. As it has one sample only, s, W and c are one
vector for each tap, and f meets the sum once; a tap costs one multiply-add an element, and its conversion to float32.

The input gradient is the same sum with f and c in each other's place and x replaced by gy,

    dx[n, q, i] = c[n, i] * sum_t s[n, t] * W[i, t] * (f[n, i] * gy[n, p, i]),    p * stride = q + padding - t*dilation

(TRANSPOSED). Which taps count there, because their p is whole, depends on q modulo the stride alone; hence a program
has pixels of one remainder (class), so that it skips whole taps.

All other gradients follow from the correlation of each sample,

    D[n, t, i] = sum_p gy[n, p, i] * x[n, p@t, i]
    dW[i, t] = sum_n f c s D     E[n, i] = sum_t s W D     df = c E     dc = f E     ds[n, t] = sum_i f c W D

with which nothing is computed a second time and nothing is divided by an f, c or s that may be zero. A program holds D
for some pixels of a sample (a part) in registers, TAPS taps at a time, and writes what its part adds to each gradient;
the parts are added by torch.sum. No atomics: results are bit-equal from run to run.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch
from .operands import Scale, sample_scale
from .problem import Problem

_ELEMENTS = 4096  # of a block of pixels and channels: 32 for each of 128 threads, 16 for each of 256
_CHANNELS = 64  # of a block: 128 bytes of half precision, which is what memory delivers at once
_TAPS = 4  # whose correlations a program accumulates at a time: it reads gy once for them
_PIXELS_PER_PART = 512  # their x and gy stay in the L1 cache while a program goes over the taps
_ENOUGH_PROGRAMS = 512  # to fill any GPU


# fmt: off
@triton.jit(do_not_specialize=["H", "W", "OH", "OW", "blocks", "stride_in", "stride_out", "stride_s"])
def depthwise_kernel(
    x, w, inner, outer, s, bias, y,
    H, W, OH, OW, blocks, stride_in, stride_out, stride_s,
    C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, TRANSPOSED: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):
    """y [N, OH, OW, C] = outer * sum_t s * w * (inner * x [N, H, W, C]) + bias, w [C, KH*KW]; strides of samples, or 0.

    grid: N * classes * blocks of pixels * blocks of channels; those that share pixels are side by side.
    """
    CLASS_H: tl.constexpr = SH if TRANSPOSED else 1
    CLASS_W: tl.constexpr = SW if TRANSPOSED else 1
    BLOCKS_C: tl.constexpr = (C + BC - 1) // BC
    i_c = tl.program_id(0) % BLOCKS_C
    i_p = tl.program_id(0) // BLOCKS_C % blocks
    i_class = tl.program_id(0) // (BLOCKS_C * blocks) % (CLASS_H * CLASS_W)
    i_n = (tl.program_id(0) // (BLOCKS_C * blocks * CLASS_H * CLASS_W)).to(tl.int64)
    class_h = i_class // CLASS_W
    class_w = i_class % CLASS_W

    o_c = i_c * BC + tl.arange(0, BC)
    m_c = o_c < C
    o_p = i_p * BP + tl.arange(0, BP)
    columns = (OW + CLASS_W - 1) // CLASS_W
    row = o_p // columns
    column = o_p % columns
    h_y = row * CLASS_H + class_h
    w_y = column * CLASS_W + class_w
    m_p = (h_y < OH) & (w_y < OW)
    x += i_n * H * W * C
    y += i_n * OH * OW * C

    b_inner = tl.full((BC,), 1.0, tl.float32)
    if inner is not None:
        b_inner = tl.load(inner + i_n * stride_in + o_c, mask=m_c, other=0.0).to(tl.float32)
    b_acc = tl.zeros((BP, BC), tl.float32)
    for u in range(KH):
        if TRANSPOSED:
            shift_h = class_h + PH - u * DH
            h_x = row + shift_h // SH
        else:
            h_x = row * SH + u * DH - PH
        m_h = m_p & (h_x >= 0) & (h_x < H)
        for v in range(KW):
            if TRANSPOSED:
                shift_w = class_w + PW - v * DW
                w_x = column + shift_w // SW
                reached = (shift_h % SH == 0) & (shift_w % SW == 0)
            else:
                w_x = column * SW + v * DW - PW
                reached = True
            if reached:
                b_k = b_inner * tl.load(w + o_c * (KH * KW) + u * KW + v, mask=m_c, other=0.0).to(tl.float32)
                if s is not None:
                    b_k *= tl.load(s + i_n * stride_s + u * KW + v).to(tl.float32)
                m_x = (m_h & (w_x >= 0) & (w_x < W))[:, None] & m_c[None, :]
                b_x = tl.load(x + ((h_x * W + w_x) * C)[:, None] + o_c[None, :], mask=m_x, other=0.0).to(tl.float32)
                # On the padding an infinite factor would make NaN of zero.
                b_acc = tl.where(m_x, b_acc + b_x * b_k[None, :], b_acc)
    if outer is not None:
        b_acc *= tl.load(outer + i_n * stride_out + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        b_acc += tl.load(bias + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
    o_y = ((h_y * OW + w_y) * C)[:, None] + o_c[None, :]
    tl.store(y + o_y, b_acc.to(y.dtype.element_ty), mask=m_p[:, None] & m_c[None, :])


@triton.jit(do_not_specialize=["H", "W", "OH", "OW", "parts", "stride_c", "stride_f", "stride_s"])
def depthwise_correlation_kernel(
    gy, x, w, c, f, s, dw, de, ds,
    H, W, OH, OW, parts, stride_c, stride_f, stride_s,
    C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):
    """What a part adds to dw [N, parts, KH*KW, C], de [N, parts, C] and ds [N, parts, blocks of channels, KH*KW], each
    of them if it is given.

    grid: N * parts * blocks of channels; those that share pixels are side by side.
    """
    T: tl.constexpr = KH * KW
    BLOCKS_C: tl.constexpr = (C + BC - 1) // BC
    i_c = tl.program_id(0) % BLOCKS_C
    i_row = (tl.program_id(0) // BLOCKS_C).to(tl.int64)  # n * parts + part
    i_part = (i_row % parts).to(tl.int32)
    i_n = i_row // parts
    per_part = (OH * OW + parts - 1) // parts
    first = i_part * per_part
    last = tl.minimum(first + per_part, OH * OW)

    o_c = i_c * BC + tl.arange(0, BC)
    m_c = o_c < C
    x += i_n * H * W * C
    gy += i_n * OH * OW * C
    b_fc = tl.full((BC,), 1.0, tl.float32)
    if c is not None:
        b_fc *= tl.load(c + i_n * stride_c + o_c, mask=m_c, other=0.0).to(tl.float32)
    if f is not None:
        b_fc *= tl.load(f + i_n * stride_f + o_c, mask=m_c, other=0.0).to(tl.float32)

    b_e = tl.zeros((BC,), tl.float32)
    for t0 in range(0, T, TAPS):
        o_t = t0 + tl.arange(0, TAPS)
        m_t = o_t < T
        o_u = o_t // KW
        o_v = o_t % KW
        b_acc = tl.zeros((TAPS, BP, BC), tl.float32)
        for p in range(first, last, BP):
            o_p = p + tl.arange(0, BP)
            m_gy = (o_p < last)[:, None] & m_c[None, :]
            b_gy = tl.load(gy + (o_p * C)[:, None] + o_c[None, :], mask=m_gy, other=0.0).to(tl.float32)
            h_x = (o_p // OW * SH - PH)[None, :] + (o_u * DH)[:, None]
            w_x = (o_p % OW * SW - PW)[None, :] + (o_v * DW)[:, None]
            m_x = m_t[:, None] & (o_p < last)[None, :] & (h_x >= 0) & (h_x < H) & (w_x >= 0) & (w_x < W)
            o_x = ((h_x * W + w_x) * C)[:, :, None] + o_c[None, None, :]
            b_x = tl.load(x + o_x, mask=m_x[:, :, None] & m_c[None, None, :], other=0.0)
            b_acc += b_x.to(tl.float32) * b_gy[None, :, :]
        b_d = tl.sum(b_acc, 1)

        m_w = m_t[:, None] & m_c[None, :]
        b_w = tl.load(w + o_t[:, None] + (o_c * T)[None, :], mask=m_w, other=0.0).to(tl.float32)
        b_ds = b_d
        if s is not None:
            b_ds *= tl.load(s + i_n * stride_s + o_t, mask=m_t, other=0.0).to(tl.float32)[:, None]
        if dw is not None:
            tl.store(dw + (i_row * T + o_t)[:, None] * C + o_c[None, :], b_ds * b_fc[None, :], mask=m_w)
        if de is not None:
            b_e += tl.sum(b_ds * b_w, 0)
        if ds is not None:
            b_s = tl.sum(b_d * b_w * b_fc[None, :], 1)
            tl.store(ds + (i_row * BLOCKS_C + i_c) * T + o_t, b_s, mask=m_t)
    if de is not None:
        tl.store(de + i_row * C + o_c, b_e, mask=m_c)
# fmt: on


def depthwise_forward(
    x: Tensor, w: Tensor, c: Tensor | None, f: Tensor | None, s: Tensor | None, bias: Tensor | None, problem: Problem
) -> Tensor:
    """y [N, OH, OW, C], contiguous, of x [N, H, W, C] and w [C, KH, KW], both contiguous.

    c and f are [N, C] or [C], s is [N, KH, KW] or [KH, KW], bias is [C], each of them any strides or None. All have
    one dtype: float32, float16 or bfloat16. A sample of x or y holds fewer than 2**31 elements. No workspace.
    """
    y = x.new_empty(problem.batch, problem.out_height, problem.out_width, problem.in_channels)
    scales = sample_scale(c), sample_scale(f), _taps_scale(s)
    _convolve(x, w, *scales, None if bias is None else bias.contiguous(), y, problem, transposed=False)
    return y


def depthwise_backward(
    grad_output: Tensor,
    x: Tensor,
    w: Tensor,
    c: Tensor | None,
    f: Tensor | None,
    s: Tensor | None,
    bias: Tensor | None,
    problem: Problem,
    output_mask: Sequence[bool] = (True,) * 6,
) -> tuple[Tensor | None, ...]:
    """The gradients of x, w, bias, c, f and s that output_mask asks for; grad_output [N, OH, OW, C] is contiguous.

    Workspace, in float32, for `parts` of a sample of at most 512 output pixels each (fewer pixels where batch and
    channels alone do not fill a GPU): N * parts * C for dc and df, T times that for dW, and for ds N * parts * T for
    each block of 64 channels.
    """
    wants_x, wants_w, wants_bias, wants_c, wants_f, wants_s = (
        wanted and tensor is not None for wanted, tensor in zip(output_mask, (x, w, bias, c, f, s), strict=True)
    )
    scales = sample_scale(c), sample_scale(f), _taps_scale(s)
    dx = torch.empty_like(x) if wants_x else None
    if dx is not None:
        _convolve(grad_output, w, scales[1], scales[0], scales[2], None, dx, problem, transposed=True)

    batch, channels, taps = problem.batch, problem.in_channels, problem.taps
    block_c = _block_of_channels(channels)
    blocks_c = cdiv(channels, block_c)
    pixels = problem.out_height * problem.out_width
    parts = _parts(pixels, batch * blocks_c)

    def workspace(wanted: bool, *shape: int) -> Tensor | None:
        return x.new_empty(batch, parts, *shape, dtype=torch.float32) if wanted else None

    dw = workspace(wants_w, taps, channels)
    de = workspace(wants_c or wants_f, channels)
    ds = workspace(wants_s, blocks_c, taps)
    if any(wanted is not None for wanted in (dw, de, ds)):
        launch(
            depthwise_correlation_kernel,
            (batch * parts * blocks_c,),
            *(grad_output, x, w, *(scale.tensor for scale in scales), dw, de, ds),
            *(problem.height, problem.width, problem.out_height, problem.out_width, parts),
            *(*(scale.sample_stride for scale in scales), channels, *problem.geometry),
            TAPS=min(_TAPS, triton.next_power_of_2(taps)),
            BP=min(_ELEMENTS // _TAPS // block_c, max(1, triton.next_power_of_2(cdiv(pixels, parts)))),
            BC=block_c,
            num_warps=4,
        )
    e = None if de is None else de.sum(1)

    def of_attention(wanted: bool, other: Tensor | None, attention: Tensor | None) -> Tensor | None:
        return _like(e if other is None or e is None else e * other, attention) if wanted else None

    return (
        dx,
        None if dw is None else dw.sum((0, 1)).t().reshape(w.shape).to(w.dtype),
        grad_output.sum((0, 1, 2)) if wants_bias else None,
        of_attention(wants_c, f, c),
        of_attention(wants_f, c, f),
        _like(None if ds is None else ds.sum((1, 2)).view(batch, *problem.kernel_size), s),
    )


def _convolve(
    x: Tensor,
    w: Tensor,
    inner: Scale,
    outer: Scale,
    s: Scale,
    bias: Tensor | None,
    y: Tensor,
    problem: Problem,
    transposed: bool,
) -> None:
    batch, height, width, channels = x.shape
    out_height, out_width = y.shape[1:3]
    class_h, class_w = problem.stride if transposed else (1, 1)
    block_c = _block_of_channels(channels)
    pixels = cdiv(out_height, class_h) * cdiv(out_width, class_w)
    block_p = min(_ELEMENTS // block_c, max(1, triton.next_power_of_2(pixels)))
    blocks = cdiv(pixels, block_p)
    launch(
        depthwise_kernel,
        (batch * class_h * class_w * blocks * cdiv(channels, block_c),),
        *(x, w, inner.tensor, outer.tensor, s.tensor, bias, y, height, width, out_height, out_width, blocks),
        *(inner.sample_stride, outer.sample_stride, s.sample_stride, channels, *problem.geometry, transposed),
        BP=block_p,
        BC=block_c,
        num_warps=8,
    )


def _taps_scale(spatial: Tensor | None) -> Scale:
    return sample_scale(None if spatial is None else spatial.flatten(-2))


def _block_of_channels(channels: int) -> int:
    return min(_CHANNELS, max(8, triton.next_power_of_2(channels)))


def _parts(pixels: int, programs: int) -> int:
    """Into how many parts a sample is cut: enough to fill a GPU, but none smaller than a block."""
    enough = cdiv(_ENOUGH_PROGRAMS, max(programs, 1))
    return max(cdiv(pixels, _PIXELS_PER_PART), min(enough, cdiv(pixels, 64)), 1)


def _like(per_sample: Tensor | None, attention: Tensor | None) -> Tensor | None:
    """A static attention stands in every sample, so its gradient is their sum."""
    if per_sample is None or attention is None:
        return None
    return (per_sample if attention.dim() == per_sample.dim() else per_sample.sum(0)).to(attention.dtype)
