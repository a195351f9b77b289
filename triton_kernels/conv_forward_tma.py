"""Forms S, M and X: the convolution as an implicit matrix product whose tiles are boxes of the image, moved by the TMA.

sm_90 and newer copy a box of a tensor into shared memory with one instruction, with zeros where the box leaves the
tensor: the padding costs nothing, and no thread computes an address. So a tile of BM output pixels is a box of
NB samples, TH rows and TW columns, and for tap t = (u, v) its inputs are a box again, moved by (u*DH - PH, v*DW - PW):

    y[p, o] = f[n, o] * sum_(t, i) (g[n, t, i] * x[n, h + u*DH - PH, w + v*DW - PW, i]) * w[o, t, i] + bias[o]

Tensor cores take one operand of a product from registers, which is where g can be multiplied in on the way.

    M  many samples in a box, for small maps: x is that operand, and g a tile with a row for each sample
    X  as M with one pixel of many samples, for maps as small as 7x7: which taps fall on the padding is then the same
       for the whole tile, and those are never computed (18 % of the products at 7x7 with padding 1)
    S  swapped, transposed y = w x: the weight is that operand, g a vector for the one sample of the box, the pixels lie
       on the other side; for large maps and few filters, where a tall tile of x would be scaled for few products

A stride divides the map: x is seen as [N, H/SH, SH, W/SW, SW*C], where output pixels that lie side by side need inputs
that lie side by side; e = h*SH + u*DH - PH is row e // SH of e % SH, for every h the same remainder.

What machine code for sm_90 and sm_100 spoke against: g by the TMA (its tile then goes through shared memory once more),
boxes of w with three dimensions (the same), programs that work on one tile after the other (the epilogue needs shared
memory of its own, so that two of them no longer share a multiprocessor), and plain stores instead of those of the TMA.
"""

import math
from typing import Any

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .config import Config
from .conv_forward import epilogue
from .cost_model import box as box_of
from .launch import Launcher, cdiv, interpreted
from .problem import Pair, Problem
from .tf32 import TMA_ROUNDS, rounded, rounded_copy, rounding


# fmt: off
@triton.jit
def store_tile(
    b_acc, y, f, bias, N, stride_fn, n0, h0, w0, o0, O: tl.constexpr,
    NB: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BN: tl.constexpr,
):
    """The epilogue of b_acc [NB*TH*TW, BN], from pixel (n0, h0, w0) and filter o0 on; what leaves y is not stored."""
    o_m = tl.arange(0, NB * TH * TW)
    o_n = o0 + tl.arange(0, BN)
    m_n = o_n < O
    # Samples beyond the end read f of the last one.
    b_n = n0 + tl.zeros((1,), tl.int32) if NB == 1 else tl.minimum(n0 + o_m // (TH * TW), N - 1)
    b_acc = epilogue(b_acc, f, bias, m_n[None, :], b_n, o_n, m_n, stride_fn)
    y.store([n0, h0, w0, o0], b_acc.to(y.dtype).reshape(NB, TH, TW, BN))


@triton.jit(do_not_specialize=["N", "H", "W", "OH", "OW"])
def conv_tma_kernel(
    x, w, y, g, f, bias,
    N, H, W, OH, OW, stride_gn, stride_gt, stride_fn,
    C: tl.constexpr, O: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    SWAPPED: tl.constexpr, SKIP_PADDING: tl.constexpr, PRECISION: tl.constexpr,
    NB: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):
    """From x [N, H/SH, SH, W/SW, SW*C] and w [O, T*C] (C rounded up to BK) to y [N, OH, OW, O], all three descriptors.

    grid: boxes of pixels and blocks of filters, the filters of one box side by side.
    """
    BM: tl.constexpr = NB * TH * TW
    C_BLOCKS: tl.constexpr = (C + BK - 1) // BK
    BLOCKS_N: tl.constexpr = (O + BN - 1) // BN
    o0 = tl.program_id(0) % BLOCKS_N * BN
    i_tile = tl.program_id(0) // BLOCKS_N
    if SKIP_PADDING:
        # Tiles with all taps first: rows and columns start behind the padding, and those before it come last.
        blocks = (N + NB - 1) // NB
        n0 = i_tile % blocks * NB
        h0 = (i_tile // blocks // OW + PH) % OH
        w0 = (i_tile // blocks % OW + PW) % OW
        top = h0 * SH - PH
        left = w0 * SW - PW
        # The taps that lie on the map; if there is none, one that does not: see below.
        u0 = tl.minimum((tl.maximum(-top, 0) + DH - 1) // DH, KH - 1)
        v0 = tl.minimum((tl.maximum(-left, 0) + DW - 1) // DW, KW - 1)
        u1 = tl.maximum(tl.minimum((tl.maximum(H - top, 0) + DH - 1) // DH, KH), u0 + 1)
        v1 = tl.maximum(tl.minimum((tl.maximum(W - left, 0) + DW - 1) // DW, KW), v0 + 1)
    else:
        blocks_w = (OW + TW - 1) // TW
        blocks = (OH + TH - 1) // TH * blocks_w
        n0 = i_tile // blocks * NB
        h0 = i_tile % blocks // blocks_w * TH
        w0 = i_tile % blocks_w * TW
        u0 = 0
        v0 = 0
        u1 = KH
        v1 = KW

    o_k = tl.arange(0, BK)
    b_n = tl.minimum(n0 + tl.arange(0, NB), N - 1)
    if g is not None:
        p_g = g + b_n.to(tl.int64)[:, None] * stride_gn + o_k[None, :]
    b_acc = tl.zeros((BN, BM) if SWAPPED else (BM, BN), tl.float32)

    # All taps of one block of channels before the next block: neighbouring taps share most of their pixels. Counting is
    # cheaper than to divide the number of the step.
    u = u0
    v = v0
    k = 0
    steps = (u1 - u0) * (v1 - v0) * C_BLOCKS
    if SKIP_PADDING:
        # Of a loop that may be empty ptxas cannot overlap the products: it would wait for each.
        tl.assume(steps > 0)
    for _ in tl.range(steps, num_stages=STAGES):
        # Dividends must not be negative: this is u*DH - PH with PH rows of the view, SH*PH of the map, added.
        e_h = u * DH + (SH - 1) * PH
        e_w = v * DW + (SW - 1) * PW
        b_x = x.load([n0, h0 + e_h // SH - PH, e_h % SH, w0 + e_w // SW - PW, e_w % SW * C + k])
        t = u * KW + v
        b_w = w.load([o0, t * (C_BLOCKS * BK) + k])
        if g is not None:
            if C % BK == 0:
                b_g = tl.load(p_g + (t * stride_gt + k))
            else:
                b_g = tl.load(p_g + (t * stride_gt + k), mask=(k + o_k < C)[None, :], other=0.0)
        if SWAPPED:
            if g is not None:
                b_w = rounded(b_w * b_g, PRECISION)
            b_acc = tl.dot(b_w, b_x.reshape(BM, BK).T, b_acc, input_precision=PRECISION)
        else:
            if g is not None:
                b_x = rounded(b_x.reshape(NB, TH * TW, BK) * b_g[:, None, :], PRECISION)
            b_acc = tl.dot(b_x.reshape(BM, BK), b_w.T, b_acc, input_precision=PRECISION)

        v += 1
        u = tl.where(v == v1, u + 1, u)
        v = tl.where(v == v1, v0, v)
        k = tl.where(u == u1, k + BK, k)
        u = tl.where(u == u1, u0, u)

    if SWAPPED:
        store_tile(b_acc.T, y, f, bias, N, stride_fn, n0, h0, w0, o0, O, NB, TH, TW, BN)
    else:
        # In two halves: f of a whole tile would not fit into the registers beside it.
        H_N: tl.constexpr = BN // 2
        b_0, b_1 = b_acc.reshape(BM, 2, H_N).permute(0, 2, 1).split()
        store_tile(b_0, y, f, bias, N, stride_fn, n0, h0, w0, o0, O, NB, TH, TW, H_N)
        store_tile(b_1, y, f, bias, N, stride_fn, n0, h0, w0, o0 + H_N, O, NB, TH, TW, H_N)
# fmt: on


def can_run(problem: Problem, config: Config) -> bool:
    """Whether the config's form takes the problem on a GPU of sm_90 or newer."""
    samples, height, width = box_of(problem, config)
    form, box_fits = config.form, samples * height * width == config.block_m
    if form == "S" and problem.has_g:
        box_fits &= samples == 1  # whose g is a vector
    if form == "X":
        box_fits &= height * width == 1
    pixels = problem.in_channels, problem.out_channels
    whole_16_bytes = all(channels * problem.dtype.itemsize % 16 == 0 for channels in pixels)
    stride_h, stride_w = problem.stride
    stride_divides = problem.height % stride_h == 0 and problem.width % stride_w == 0
    # Side by side in memory with a stride lie the channels of stride_w pixels.
    blocks_of_one_pixel = stride_w == 1 or problem.in_channels % config.block_k == 0
    whole = box_fits and whole_16_bytes and stride_divides and blocks_of_one_pixel
    return whole and config.split_k == 1 and problem.groups == 1 and (interpreted or not problem.exact)


class Product:
    """As conv_forward.Product, where can_run says so. Workspace: a copy of w with its channels rounded up to block_k,
    where they are no multiple of it."""

    def __init__(self, problem: Problem, config: Config, g: Pair, f: int, precision: str, transposed: bool) -> None:
        assert not transposed
        samples, box_height, box_width = box_of(problem, config)
        batch, out_height, out_width = problem.batch, problem.out_height, problem.out_width
        channels, filters, block_k = problem.in_channels, problem.out_channels, config.block_k
        stride_h, stride_w = problem.stride
        swapped = config.form == "S"
        self.shape = batch, out_height, out_width, filters
        # Of each tap of each filter.
        self._taps = filters * problem.taps, channels
        self._padding = (0, -channels % block_k) if problem.taps > 1 and channels % block_k else None
        tap = channels + (self._padding[1] if self._padding else 0)

        rows = problem.height // stride_h
        x_shape = batch, rows, stride_h, problem.width // stride_w, stride_w * channels
        self._x = _Descriptor(x_shape, (samples, box_height, 1, box_width, block_k))
        self._w = _Descriptor((filters, problem.taps * tap), (config.block_n, block_k))
        stored = config.block_n if swapped else config.block_n // 2
        self._y = _Descriptor(self.shape, (samples, box_height, box_width, stored), multiplied=False)
        boxes = cdiv(batch, samples) * cdiv(out_height, box_height) * cdiv(out_width, box_width)
        self._launch = Launcher(
            conv_tma_kernel,
            (boxes * cdiv(filters, config.block_n), 1, 1),
            *(batch, problem.height, problem.width, out_height, out_width, *g, f),
            *(channels, filters, *problem.geometry),
            descriptors=3,
            SWAPPED=swapped,
            SKIP_PADDING=config.form == "X",
            PRECISION=precision,
            NB=samples,
            TH=box_height,
            TW=box_width,
            BN=config.block_n,
            BK=block_k,
            STAGES=config.num_stages,
            num_warps=config.num_warps,
        )

    def __call__(
        self,
        x: Tensor,
        w: Tensor,
        g: Tensor | None,
        f: Tensor | None,
        bias: Tensor | None,
        dot_with: None,
        y: Tensor,
    ) -> None:
        """y = f * conv(g * x, w) + bias; without the sums that dot_with asks for."""
        assert dot_with is None
        x, w = _aligned(x), _aligned(w if TMA_ROUNDS else rounded_copy(w))
        if self._padding is not None:
            w = F.pad(w.as_strided(self._taps, (self._taps[1], 1)), self._padding)
        self._launch(self._x(x), self._w(w), self._y(y), g, f, bias)


def _aligned(tensor: Tensor) -> Tensor:
    """Descriptors need addresses of a multiple of 16 bytes, which a slice of a tensor may not have."""
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


class _Descriptor:
    """Makes TMA descriptors of tensors whose memory has this shape, contiguous; checked once."""

    def __init__(self, shape: tuple[int, ...], box: tuple[int, ...], multiplied: bool = True) -> None:
        self._shape, self._box, self._multiplied = shape, box, multiplied
        self._checked: dict[str, Any] | None = None

    def __call__(self, tensor: Tensor) -> TensorDescriptor:
        if self._checked is None:
            strides = [math.prod(self._shape[axis + 1 :]) for axis in range(len(self._shape))]
            options = rounding(tensor) if self._multiplied else {}
            descriptor = TensorDescriptor(tensor, list(self._shape), strides, list(self._box), **options)
            self._checked = {name: value for name, value in vars(descriptor).items() if name != "base"}
            return descriptor
        descriptor = object.__new__(TensorDescriptor)
        vars(descriptor).update(self._checked, base=tensor)
        return descriptor
