"""Form P: the convolution as an implicit matrix product that gathers by pointers; any size, any GPU since sm_80.

Flatten the pixels of all samples into rows p, and the taps t = (u, v) times the channels i into columns k. Then

    y[p, o] = f[n(p), o] * sum_k (g[n(p), k] * X[p, k]) * W[o, k] + bias[o],     g[n, (t, i)] = s[n, t] * c[n, i]

is a matrix product whose left operand X is read from the input as it is needed (row p, tap t: the pixel that tap t of
output pixel p lies on) and scaled on its way to the tensor cores, and whose epilogue does the rest. A tile may hold
pixels of several samples, so that small maps waste nothing; hence g is a tile as X is.

The input gradient before c, with q a pixel of the input,

    dx[q, i] = c[n, i] * sum_(t, o) (s[n, t] * f[n, o] * gy[p, o]) * W[o, t, i], p * stride = q + padding - t * dilation

is the same product with TRANSPOSED: it gathers from gy, f and c change places, and only the taps for which p is whole
count. Those depend on q modulo the stride alone, so that the pixels of each remainder (a "class") are tiles of their
own and no product with zero is computed.

dots are what both need for their attention gradients: df[n, o] = sum_p gy[p, o] * u[p, o] over the forward product u
before f, and dc[n, i] = sum_q x[q, i] * dxs[q, i] over the input gradient before c. A tile writes one partial sum for
each sample that it holds, and conv_dot_kernel adds the tiles of a sample in a fixed order: no atomics.

SPLIT_K programs share the reduction of a tile where there are too few tiles to fill the GPU; each writes its part in
float32, [SPLIT_K, pixels, O], and conv_reduce_kernel adds the parts and does the epilogue.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .config import Config
from .launch import Launcher, cdiv, interpreted, launch
from .problem import Pair, Problem
from .tf32 import rounder


# fmt: off
@triton.jit
def first_tap(remainder, S: tl.constexpr, D: tl.constexpr, K: tl.constexpr):
    """The lowest tap u < K with remainder - u*D divisible by S; K if there is none."""
    u = remainder * 0 + K
    for i in tl.static_range(K):
        # S*D*K is divisible by S and keeps the dividend positive.
        u = tl.where((remainder + (S * K - (K - 1 - i)) * D) % S == 0, K - 1 - i, u)
    return u


@triton.jit
def epilogue(b_acc, f, bias, m_y, b_n, o_n, m_n, stride_fn):
    """f * acc + bias; b_n are the samples of the rows."""
    if f is not None:
        p_f = f + b_n.to(tl.int64)[:, None] * stride_fn + o_n[None, :]
        b_acc = b_acc * tl.load(p_f, mask=m_y, other=0.0).to(tl.float32)
    if bias is not None:
        b_acc = b_acc + tl.load(bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    return b_acc


@triton.jit
def store_sample_sums(p_sums, b_values, m_m, b_segment, m_n, STRIDE: tl.constexpr, SEGMENTS: tl.constexpr):
    """Of each sample that a tile holds pixels of, the sum of its rows of b_values."""
    # A loop: on maps of few pixels a tile has up to 128 samples, and so many sums written out compile for minutes.
    for i in range(SEGMENTS):
        m_rows = (m_m & (b_segment == i))[:, None]
        tl.store(p_sums + i * STRIDE, tl.sum(tl.where(m_rows, b_values, 0.0), 0), mask=m_n)


@triton.jit(do_not_specialize=["N", "H", "W", "OH", "OW", "tiles", "k_steps"])
def conv_kernel(
    x, w, g, f, bias, y, z, dots,
    N, H, W, OH, OW, stride_gn, stride_gt, stride_fn, tiles, k_steps,
    K: tl.constexpr, O: tl.constexpr, GROUPS: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    TRANSPOSED: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    SEGMENTS: tl.constexpr, SPLIT_K: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):
    """From x [N, H, W, GROUPS*K] to y [N, OH, OW, GROUPS*O]; w is the forward's [out, T, in] in both directions.

    grid: blocks of pixels and of filters (the filters of one block of pixels side by side), GROUPS * classes, SPLIT_K.
    A class is the output pixels (class_h + SH*i, class_w + SW*j) if TRANSPOSED; otherwise there is one, of all pixels.
    """
    CLASS_H: tl.constexpr = SH if TRANSPOSED else 1
    CLASS_W: tl.constexpr = SW if TRANSPOSED else 1
    CLASSES: tl.constexpr = CLASS_H * CLASS_W
    BLOCKS_N: tl.constexpr = (O + BN - 1) // BN
    i_tile = tl.program_id(0) // BLOCKS_N
    o_n = tl.program_id(0) % BLOCKS_N * BN + tl.arange(0, BN)
    m_n = o_n < O
    i_group = tl.program_id(1) // CLASSES
    class_h = tl.program_id(1) % CLASSES // CLASS_W
    class_w = tl.program_id(1) % CLASS_W
    i_split = tl.program_id(2)

    # Rows are the pixels of this class. Those beyond the end stand on the last pixel: computed, but not stored.
    CW = (OW - class_w + CLASS_W - 1) // CLASS_W
    P = (OH - class_h + CLASS_H - 1) // CLASS_H * CW
    if i_tile * BM >= N * P:
        return
    o_m = i_tile * BM + tl.arange(0, BM)
    m_m = o_m < N * P
    o_m = tl.minimum(o_m, N * P - 1)
    b_n = o_m // P
    o_h = o_m % P // CW
    o_w = o_m % CW

    # Tap (i, j) of this class is tap (u0 + i*STEP_H, v0 + j*STEP_W) of the kernel, and pixel (h0 + i*DELTA_H, ..) of x.
    if TRANSPOSED:
        DELTA_H: tl.constexpr = -(STEP_H * DH // SH)
        DELTA_W: tl.constexpr = -(STEP_W * DW // SW)
    else:
        DELTA_H: tl.constexpr = DH
        DELTA_W: tl.constexpr = DW
    if CLASSES == 1:
        u0 = 0
        v0 = 0
        TAPS_W: tl.constexpr = KW
        TAPS: tl.constexpr = KH * KW
        h0 = o_h + PH if TRANSPOSED else o_h * SH - PH
        w0 = o_w + PW if TRANSPOSED else o_w * SW - PW
    else:
        u0 = first_tap(class_h + PH, SH, DH, KH)
        v0 = first_tap(class_w + PW, SW, DW, KW)
        has_steps = (u0 < KH) & (v0 < KW)
        u0 = tl.minimum(u0, KH - 1)
        v0 = tl.minimum(v0, KW - 1)
        TAPS_W = (KW - v0 + STEP_W - 1) // STEP_W
        TAPS = (KH - u0 + STEP_H - 1) // STEP_H * TAPS_W
        h0 = o_h + (class_h + PH - u0 * DH) // SH
        w0 = o_w + (class_w + PW - v0 * DW) // SW

    # The steps of this program. One that has none, because its class has few taps or none, takes one without any value:
    # ptxas waits for each product before the next if the loop might be empty.
    steps = TAPS * ((K + BK - 1) // BK)
    first = i_split * k_steps
    m_f = m_n
    if CLASSES > 1:
        has_steps = has_steps & (first < steps)
        first = tl.where(has_steps, first, 0)
        steps = tl.where(has_steps, steps, 1)
        m_f = o_n < tl.where(has_steps, O, 0)
        h0 = tl.where(has_steps, h0, H)
    last = tl.minimum(first + k_steps, steps)
    tl.assume(first < last)

    # One bit for each row of taps and one for each column of them: set where the tap lies on x and not on the padding.
    UNPADDED: tl.constexpr = CLASSES == 1 and KH == 1 and KW == 1 and PH == 0 and PW == 0
    if not UNPADDED:
        m_h = tl.zeros((BM,), tl.int32)
        m_w = tl.zeros((BM,), tl.int32)
        for i in tl.static_range(KH):
            h = h0 + i * DELTA_H
            m_h |= (m_m & (h >= 0) & (h < H)).to(tl.int32) << i
        for j in tl.static_range(KW):
            v = w0 + j * DELTA_W
            m_w |= ((v >= 0) & (v < W)).to(tl.int32) << j

    # The element of w for (tap t, reduction index k, filter n) of one group.
    W_T: tl.constexpr = O if TRANSPOSED else K
    W_K: tl.constexpr = KH * KW * O if TRANSPOSED else 1
    W_N: tl.constexpr = 1 if TRANSPOSED else KH * KW * K
    o_k = tl.arange(0, BK)
    o_x = b_n.to(tl.int64) * H * W * (GROUPS * K) + (h0 * W + w0) * (GROUPS * K) + i_group * K
    p_x = x + o_x[:, None] + o_k[None, :]
    p_w = w + i_group * (KH * KW * K * O) + o_k[:, None] * W_K + o_n[None, :] * W_N
    if g is not None:
        p_g = g + (b_n.to(tl.int64) * stride_gn + i_group * K)[:, None] + o_k[None, :]

    b_acc = tl.zeros((BM, BN), tl.float32)
    for step in tl.range(first, last, num_stages=STAGES):
        # All taps of one block of channels before the next block: neighbouring taps share most of their pixels.
        tap = step % TAPS
        k = step // TAPS * BK
        i_h = tap // TAPS_W
        i_w = tap % TAPS_W
        t = (u0 + i_h * STEP_H) * KW + v0 + i_w * STEP_W
        shift = (i_h * DELTA_H * W + i_w * DELTA_W) * (GROUPS * K) + k
        m_k = k + o_k < K
        if UNPADDED:
            if K % BK == 0:
                b_x = tl.load(p_x + shift)
            else:
                b_x = tl.load(p_x + shift, mask=m_k[None, :], other=0.0)
        else:
            m_x = (((m_h >> i_h) & (m_w >> i_w) & 1) != 0)[:, None]
            if K % BK != 0:
                m_x = m_x & m_k[None, :]
            b_x = tl.load(p_x + shift, mask=m_x, other=0.0)
        if K % BK == 0 and O % BN == 0 and CLASSES == 1:
            b_w = tl.load(p_w + (t * W_T + k * W_K))
        else:
            b_w = tl.load(p_w + (t * W_T + k * W_K), mask=m_k[:, None] & m_f[None, :], other=0.0)
        if g is not None:
            # Under the mask of x the padding stays zero whatever stands in g.
            if not UNPADDED:
                b_g = tl.load(p_g + (t * stride_gt + k), mask=m_x, other=0.0)
            elif K % BK == 0:
                b_g = tl.load(p_g + (t * stride_gt + k))
            else:
                b_g = tl.load(p_g + (t * stride_gt + k), mask=m_k[None, :], other=0.0)
            b_x = b_x * b_g
        b_acc = tl.dot(b_x, b_w, b_acc, input_precision=PRECISION)

    row = (b_n * OH + class_h + o_h * CLASS_H).to(tl.int64) * OW + class_w + o_w * CLASS_W
    o_n += i_group * O
    o_y = row[:, None] * (GROUPS * O) + o_n[None, :]
    m_y = m_m[:, None] & m_n[None, :]
    if dots is not None:
        b_dot = b_acc * tl.load(z + o_y, mask=m_y, other=0.0).to(tl.float32)
        block = (i_split * CLASSES + class_h * CLASS_W + class_w) * tiles + i_tile
        p_dots = dots + block.to(tl.int64) * SEGMENTS * (GROUPS * O) + o_n
        store_sample_sums(p_dots, b_dot, m_m, b_n - i_tile * BM // P, m_n, GROUPS * O, SEGMENTS)
    if SPLIT_K == 1:
        b_acc = epilogue(b_acc, f, bias, m_y, b_n, o_n, m_n, stride_fn)
        tl.store(y + o_y, b_acc.to(y.dtype.element_ty), mask=m_y)
    else:
        part = i_split.to(tl.int64) * N * OH * OW * (GROUPS * O)
        tl.store(y + part + o_y, b_acc, mask=m_y)


@triton.jit(do_not_specialize=["rows", "P"])
def conv_reduce_kernel(
    parts, f, bias, y, rows, P, stride_fn,
    O: tl.constexpr, SPLIT_K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):
    """y [rows, O] = epilogue(sum of parts [SPLIT_K, rows, O]), where P rows belong to one sample."""
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    m_n = o_n < O
    m_y = (o_m < rows)[:, None] & m_n[None, :]
    o_y = o_m.to(tl.int64)[:, None] * O + o_n[None, :]
    b_acc = tl.zeros((BM, BN), tl.float32)
    for i in tl.static_range(SPLIT_K):
        b_acc += tl.load(parts + i * rows.to(tl.int64) * O + o_y, mask=m_y, other=0.0)
    b_acc = epilogue(b_acc, f, bias, m_y, o_m // P, o_n, m_n, stride_fn)
    tl.store(y + o_y, b_acc.to(y.dtype.element_ty), mask=m_y)


@triton.jit(do_not_specialize=["OH", "OW", "tiles"])
def conv_dot_kernel(
    dots, sums, OH, OW, tiles, O: tl.constexpr, CLASS_H: tl.constexpr, CLASS_W: tl.constexpr, SEGMENTS: tl.constexpr,
    SPLIT_K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BT: tl.constexpr,
):
    """sums [N, O] of dots [SPLIT_K, classes, tiles, SEGMENTS, O]: the tiles that hold pixels of a sample, in order."""
    i_n = tl.program_id(0)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    m_n = o_n < O
    b_sum = tl.zeros((BN,), tl.float32)
    for i in range(SPLIT_K * CLASS_H * CLASS_W):
        class_h = i % (CLASS_H * CLASS_W) // CLASS_W
        class_w = i % CLASS_W
        P = ((OH - class_h + CLASS_H - 1) // CLASS_H) * ((OW - class_w + CLASS_W - 1) // CLASS_W)
        if P > 0:
            last = ((i_n + 1) * P + BM - 1) // BM
            for first in range(i_n * P // BM, last, BT):
                o_t = first + tl.arange(0, BT)
                offset = ((i * tiles + o_t).to(tl.int64) * SEGMENTS + i_n - o_t * BM // P) * O
                m_t = (o_t < last)[:, None] & m_n[None, :]
                b_sum += tl.sum(tl.load(dots + offset[:, None] + o_n[None, :], mask=m_t, other=0.0), 0)
    tl.store(sums + i_n.to(tl.int64) * O + o_n, b_sum, mask=m_n)
# fmt: on


def dot_segments(config: Config, smallest_map: int) -> int:
    """How many samples a tile may hold pixels of."""
    return (config.block_m - 2) // max(smallest_map, 1) + 2


class Product:
    """conv_kernel and what follows it for operands of given sizes and layouts: all but the tensors is decided.

    transposed: the gradient for the input, where x is that for the output, g scales it and f the result.
    g: how far apart samples and taps lie in it; f: how far apart samples lie. 0 where there is none.
    Workspace beside the result, in float32: split_k times y if split_k > 1; for dot_with, dot_segments / block_m of y.
    """

    def __init__(self, problem: Problem, config: Config, g: Pair, f: int, precision: str, transposed: bool) -> None:
        sizes = (problem.height, problem.width), (problem.out_height, problem.out_width)
        (height, width), (out_height, out_width) = reversed(sizes) if transposed else sizes
        k, o = reversed(problem.per_group) if transposed else problem.per_group
        class_h, class_w = problem.stride if transposed else (1, 1)
        step = problem.tap_step if transposed else (1, 1)
        # Of the classes, the first is the largest and the last the smallest.
        pixels = cdiv(out_height, class_h) * cdiv(out_width, class_w)
        fewest = (out_height // class_h) * (out_width // class_w)
        batch, block_m = problem.batch, config.block_m
        tiles = cdiv(batch * pixels, block_m)
        taps = math.prod(cdiv(size, s) for size, s in zip(problem.kernel_size, step, strict=True))
        channels = problem.groups * o
        steps = taps * cdiv(k, config.block_k)
        k_steps = cdiv(steps, config.split_k)
        split_k = cdiv(steps, k_steps)  # without programs that would have no step
        segments = dot_segments(config, fewest)

        self.shape = batch, out_height, out_width, channels
        self._classes, self._block_m = (class_h, class_w), block_m
        rounds = precision == "tf32" and problem.dtype is torch.float32 and not interpreted
        self._round = rounder(k * o * problem.groups * problem.taps) if rounds else None
        self._parts = (split_k, *self.shape) if split_k > 1 else None
        self._dots = split_k, class_h * class_w, tiles, segments, channels
        self._product = Launcher(
            conv_kernel,
            (tiles * cdiv(o, config.block_n), problem.groups * class_h * class_w, split_k),
            *(batch, height, width, out_height, out_width, *g, f, tiles, k_steps),
            *(k, o, problem.groups, *problem.geometry, transposed, *step),
            SEGMENTS=segments,
            SPLIT_K=split_k,
            PRECISION=precision,
            **config.tile("BM", "BN", "BK"),
        )
        rows = batch * out_height * out_width
        self._reduce = Launcher(
            conv_reduce_kernel,
            (cdiv(rows, 16), cdiv(channels, 128), 1),
            *(rows, out_height * out_width, f, channels),
            SPLIT_K=split_k,
            BM=16,
            BN=128,
            num_warps=4,
        )

    def __call__(
        self,
        x: Tensor,
        w: Tensor,
        g: Tensor | None,
        f: Tensor | None,
        bias: Tensor | None,
        dot_with: Tensor | None,
        y: Tensor,
    ) -> Tensor | None:
        """y = f * conv(g * x, w) + bias; with dot_with, of y's shape, the sums [N, channels of y] over a sample's
        pixels of dot_with times the product before f, in float32.

        Of x, w and y the memory counts: x [N, H, W, C], w [O, T, C/groups], y of self.shape.
        """
        out = y if self._parts is None else x.new_empty(self._parts, dtype=torch.float32)
        dots = None if dot_with is None else x.new_empty(self._dots, dtype=torch.float32)
        if self._round is not None:
            rounded = torch.empty_like(w)
            self._round(w, rounded)
            w = rounded
        self._product(x, w, g, f, bias, out, dot_with, dots)
        if self._parts is not None:
            self._reduce(out, f, bias, y)
        return None if dots is None else sample_sums(dots, *self.shape[:3], self._classes, self._block_m)


def sample_sums(dots: Tensor, batch: int, height: int, width: int, classes: tuple[int, int], block_m: int) -> Tensor:
    """[N, O] of dots [splits, classes, tiles of block_m pixels, segments, O], for images of height x width."""
    split_k, _, tiles, segments, channels = dots.shape
    sums = dots.new_empty(batch, channels)
    launch(
        conv_dot_kernel,
        (batch, cdiv(channels, 128), 1),
        *(dots, sums, height, width, tiles, channels, *classes),
        SEGMENTS=segments,
        SPLIT_K=split_k,
        BM=block_m,
        BN=128,
        BT=8,
        num_warps=4,
    )
    return sums
