"""Depthwise convolution (groups = C_in = C_out): nothing for tensor cores, so the taps are added up directly.

With one filter per channel, f and c stand on the same channel i and the convolution is

    y[n, p, i] = f[n, i] * sum_t s[n, t] * W[i, t] * (c[n, i] * x[n, p@t, i]) + bias[i]

where p@t is the input pixel under tap t of output pixel p. For 3x3 that is 9 multiply-adds for an element read and one
written, so that memory and the issue of instructions are about equally scarce. A program takes a block of neighbouring
pixels of one sample and a block of channels, and goes over the taps: the T reads of an element lie within one program
or in neighbouring ones, and all but the first are served by the caches. As it has one sample only, c and f are vectors
that meet the sum once, and s is a scalar; a tap costs one multiply-add an element, and its conversion to float32.

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
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch

Pair = Sequence[int]

_ELEMENTS = 4096  # of a block of pixels and channels: 32 for each of 128 threads, 16 for each of 256
_CHANNELS = 64  # of a block: 128 bytes of half precision, which is what memory delivers at once
_TAPS = 4  # whose correlations a program accumulates at a time: it reads gy once for them
_PIXELS_PER_PART = 512  # their x and gy stay in the L1 cache while a program goes over the taps
_ENOUGH_PROGRAMS = 512  # to fill any GPU


# fmt: off
@triton.jit
def sum_of_taps(
    x, w, inner, s, row, column, class_h, class_w, m_p, o_c, m_c, H, W,
    C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, TRANSPOSED: tl.constexpr,
    HAS_INNER: tl.constexpr, HAS_S: tl.constexpr, CAREFUL: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):
    """[BP, BC] = inner * sum_t s * w * x of one sample. CAREFUL: inner meets each x, and nothing meets the padding."""
    if HAS_INNER:
        b_inner = tl.load(inner + o_c, mask=m_c, other=0.0).to(tl.float32)
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
                b_k = tl.load(w + o_c * (KH * KW) + u * KW + v, mask=m_c, other=0.0).to(tl.float32)
                if HAS_S:
                    b_k *= tl.load(s + u * KW + v).to(tl.float32)
                m_x = (m_h & (w_x >= 0) & (w_x < W))[:, None] & m_c[None, :]
                b_x = tl.load(x + ((h_x * W + w_x) * C)[:, None] + o_c[None, :], mask=m_x, other=0.0).to(tl.float32)
                if CAREFUL:
                    if HAS_INNER:
                        b_x *= b_inner[None, :]
                    b_acc += tl.where(m_x, b_x * b_k[None, :], 0.0)
                else:
                    b_acc += b_x * b_k[None, :]
    if HAS_INNER and not CAREFUL:
        b_acc *= b_inner[None, :]
    return b_acc


@triton.jit(do_not_specialize=["H", "W", "OH", "OW", "blocks", "stride_in", "stride_out", "stride_s"])
def depthwise_kernel(
    x, w, inner, outer, s, bias, y,
    H, W, OH, OW, blocks, stride_in, stride_out, stride_s,
    C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, TRANSPOSED: tl.constexpr,
    HAS_INNER: tl.constexpr, HAS_OUTER: tl.constexpr, HAS_S: tl.constexpr, HAS_BIAS: tl.constexpr,
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
    if HAS_INNER:
        inner += i_n * stride_in
    if HAS_S:
        s += i_n * stride_s

    b_acc = sum_of_taps(
        x, w, inner, s, row, column, class_h, class_w, m_p, o_c, m_c, H, W,
        C, KH, KW, SH, SW, DH, DW, PH, PW, TRANSPOSED, HAS_INNER, HAS_S, False, BP, BC,
    )
    # Where the sum is infinite or NaN, so may be a factor, and taking it out of the sum or times the padding is wrong.
    if tl.max(tl.max(tl.where(tl.abs(b_acc) < float("inf"), 0, 1), 1), 0) > 0:
        b_acc = sum_of_taps(
            x, w, inner, s, row, column, class_h, class_w, m_p, o_c, m_c, H, W,
            C, KH, KW, SH, SW, DH, DW, PH, PW, TRANSPOSED, HAS_INNER, HAS_S, True, BP, BC,
        )
    if HAS_OUTER:
        b_acc *= tl.load(outer + i_n * stride_out + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        b_acc += tl.load(bias + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
    o_y = ((h_y * OW + w_y) * C)[:, None] + o_c[None, :]
    tl.store(y + o_y, b_acc.to(y.dtype.element_ty), mask=m_p[:, None] & m_c[None, :])


@triton.jit(do_not_specialize=["H", "W", "OH", "OW", "parts", "stride_c", "stride_f", "stride_s"])
def depthwise_correlation_kernel(
    gy, x, w, c, f, s, dw, de, ds,
    H, W, OH, OW, parts, stride_c, stride_f, stride_s,
    C: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    HAS_C: tl.constexpr, HAS_F: tl.constexpr, HAS_S: tl.constexpr,
    WANTS_W: tl.constexpr, WANTS_E: tl.constexpr, WANTS_S: tl.constexpr,
    TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):
    """What a part adds to dw [N, parts, KH*KW, C], de [N, parts, C] and ds [N, parts, blocks of channels, KH*KW].

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
    if HAS_C:
        b_fc *= tl.load(c + i_n * stride_c + o_c, mask=m_c, other=0.0).to(tl.float32)
    if HAS_F:
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
        if HAS_S:
            b_ds *= tl.load(s + i_n * stride_s + o_t, mask=m_t, other=0.0).to(tl.float32)[:, None]
        if WANTS_W:
            tl.store(dw + (i_row * T + o_t)[:, None] * C + o_c[None, :], b_ds * b_fc[None, :], mask=m_w)
        if WANTS_E:
            b_e += tl.sum(b_ds * b_w, 0)
        if WANTS_S:
            b_s = tl.sum(b_d * b_w * b_fc[None, :], 1)
            tl.store(ds + (i_row * BLOCKS_C + i_c) * T + o_t, b_s, mask=m_t)
    if WANTS_E:
        tl.store(de + i_row * C + o_c, b_e, mask=m_c)
# fmt: on


class Gradients(NamedTuple):
    """Each as the tensor that it belongs to, or None where it is absent or was not asked for."""

    x: Tensor | None
    w: Tensor | None
    bias: Tensor | None
    c: Tensor | None
    f: Tensor | None
    s: Tensor | None


def depthwise_forward(
    x: Tensor,
    w: Tensor,
    c: Tensor | None,
    f: Tensor | None,
    s: Tensor | None,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """y [N, OH, OW, C], contiguous, of x [N, H, W, C] and w [C, KH, KW], both contiguous.

    c and f are [N, C] or [C], s is [N, KH, KW] or [KH, KW], bias is [C], each of them any strides or None. All have
    one dtype: float32, float16 or bfloat16. A sample of x or y holds fewer than 2**31 elements. No workspace.
    """
    batch, height, width, channels = x.shape
    sizes = zip((height, width), w.shape[1:], stride, padding, dilation, strict=True)
    out = [(size + 2 * pad - d * (k - 1) - 1) // step + 1 for size, k, step, pad, d in sizes]
    y = x.new_empty(batch, *out, channels)
    c, f, s, bias = (None if tensor is None else tensor.contiguous() for tensor in (c, f, s, bias))
    _convolve(x, w, c, f, s, bias, y, stride, padding, dilation, transposed=False)
    return y


def depthwise_backward(
    grad_output: Tensor,
    x: Tensor,
    w: Tensor,
    c: Tensor | None,
    f: Tensor | None,
    s: Tensor | None,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    output_mask: Sequence[bool] = (True,) * 6,
) -> Gradients:
    """The gradients that output_mask asks for, in the order of Gradients; grad_output [N, OH, OW, C] is contiguous.

    Workspace, in float32, for `parts` of a sample of at most 512 output pixels each (fewer pixels where batch and
    channels alone do not fill a GPU): N * parts * C for dc and df, T times that for dW, and for ds N * parts * T for
    each block of 64 channels.
    """
    wants_x, wants_w, wants_bias, wants_c, wants_f, wants_s = (
        wanted and tensor is not None for wanted, tensor in zip(output_mask, (x, w, bias, c, f, s), strict=True)
    )
    c, f, s = (None if tensor is None else tensor.contiguous() for tensor in (c, f, s))
    dx = x.new_empty(x.shape) if wants_x else None
    if dx is not None:
        _convolve(grad_output, w, f, c, s, None, dx, stride, padding, dilation, transposed=True)

    batch, height, width, channels = x.shape
    out_height, out_width = grad_output.shape[1:3]
    taps = w[0].numel()
    block_c = _block_of_channels(channels)
    blocks_c = cdiv(channels, block_c)
    pixels = out_height * out_width
    parts = _parts(pixels, batch * blocks_c)
    wants_e = wants_c or wants_f

    def workspace(wanted: bool, *shape: int) -> Tensor | None:
        return x.new_empty(batch, parts, *shape, dtype=torch.float32) if wanted else None

    dw = workspace(wants_w, taps, channels)
    de = workspace(wants_e, channels)
    ds = workspace(wants_s, blocks_c, taps)
    if wants_w or wants_e or wants_s:
        launch(
            depthwise_correlation_kernel,
            (batch * parts * blocks_c,),
            *(grad_output, x, w, c, f, s, dw, de, ds),
            *(height, width, out_height, out_width, parts, _sample_stride(c, 1), _sample_stride(f, 1)),
            *(_sample_stride(s, 2), channels, *w.shape[1:], *stride, *dilation, *padding),
            HAS_C=c is not None,
            HAS_F=f is not None,
            HAS_S=s is not None,
            WANTS_W=wants_w,
            WANTS_E=wants_e,
            WANTS_S=wants_s,
            TAPS=min(_TAPS, triton.next_power_of_2(taps)),
            BP=min(_ELEMENTS // _TAPS // block_c, max(1, triton.next_power_of_2(cdiv(pixels, parts)))),
            BC=block_c,
            num_warps=4,
        )
    e = None if de is None else de.sum(1)

    def of_attention(other: Tensor | None, attention: Tensor | None) -> Tensor:
        assert e is not None
        assert attention is not None
        return _like(e if other is None else e * other, attention)

    return Gradients(
        dx,
        None if dw is None else dw.sum((0, 1)).t().reshape(w.shape).to(w.dtype),
        grad_output.sum((0, 1, 2)) if wants_bias else None,
        of_attention(f, c) if wants_c else None,
        of_attention(c, f) if wants_f else None,
        None if ds is None or s is None else _like(ds.sum((1, 2)).view(batch, *w.shape[1:]), s),
    )


def _convolve(
    x: Tensor,
    w: Tensor,
    inner: Tensor | None,
    outer: Tensor | None,
    s: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    transposed: bool,
) -> None:
    batch, height, width, channels = x.shape
    out_height, out_width = y.shape[1:3]
    class_h, class_w = stride if transposed else (1, 1)
    block_c = _block_of_channels(channels)
    pixels = cdiv(out_height, class_h) * cdiv(out_width, class_w)
    block_p = min(_ELEMENTS // block_c, max(1, triton.next_power_of_2(pixels)))
    blocks = cdiv(pixels, block_p)
    launch(
        depthwise_kernel,
        (batch * class_h * class_w * blocks * cdiv(channels, block_c),),
        *(x, w, inner, outer, s, bias, y),
        *(height, width, out_height, out_width, blocks),
        *(_sample_stride(inner, 1), _sample_stride(outer, 1), _sample_stride(s, 2)),
        *(channels, *w.shape[1:], *stride, *dilation, *padding, transposed),
        HAS_INNER=inner is not None,
        HAS_OUTER=outer is not None,
        HAS_S=s is not None,
        HAS_BIAS=bias is not None,
        BP=block_p,
        BC=block_c,
        num_warps=8,
    )


def _block_of_channels(channels: int) -> int:
    return min(_CHANNELS, max(8, triton.next_power_of_2(channels)))


def _parts(pixels: int, programs: int) -> int:
    """Into how many parts a sample is cut: enough to fill a GPU, but none smaller than a block."""
    enough = cdiv(_ENOUGH_PROGRAMS, max(programs, 1))
    return max(cdiv(pixels, _PIXELS_PER_PART), min(enough, cdiv(pixels, 64)), 1)


def _sample_stride(attention: Tensor | None, static_dim: int) -> int:
    return 0 if attention is None or attention.dim() == static_dim else attention.stride(0)


def _like(per_sample: Tensor, attention: Tensor) -> Tensor:
    """A static attention stands in every sample, so its gradient is their sum."""
    return (per_sample if attention.dim() == per_sample.dim() else per_sample.sum(0)).to(attention.dtype)
