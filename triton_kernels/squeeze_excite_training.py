"""Squeeze-and-excitation in training, where BatchNorm needs the features of the whole batch: three launches, and two.

    pool_kernel               as for inference; also counts the batch for BatchNorm.
    features_kernel           fc1, statistics, running statistics, ReLU: a program has some features of all samples.
    gate_kernel               as for inference, with the features given.

    features_backward_kernel  for some features: dl = dgate * gate * (1 - gate) back through fc2, ReLU and BatchNorm to
                              dz, the gradient of what fc1 returned; and from dz that of fc1's weight.
    gate_backward_kernel      for some channels: the gradients of fc2, and through fc1 that of the means, dz @ fc1.

With xhat = (z - mean) / sqrt(var + eps) the gradient through the batch's statistics is

    dz = gamma / sqrt(var + eps) * (da - mean(da) - xhat * mean(da * xhat))

and through fixed ones its first term alone. The gradient of x is the same for all pixels: that of the means / P, as a
view that repeats it. All sums run in float32, in an order that does not change from run to run.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch
from .squeeze_excite import Pixels, gate_of, load_means, pool, relu

# What a program that has all samples can hold, and how many features or channels it has.
MOST_SAMPLES = 512
_BLOCK_R = 16
_BLOCK_C = 16


# fmt: off
@triton.jit
def load_grad_logits(grad, gate, o_n, o_c, N, C, stride_grad_n, stride_grad_c):
    """dl [BN, BC] = grad * gate * (1 - gate), zero outside."""
    m_g = (o_n < N)[:, None] & (o_c < C)[None, :]
    p_grad = grad + (o_n * stride_grad_n)[:, None] + (o_c * stride_grad_c)[None, :]
    b_grad = tl.load(p_grad, mask=m_g, other=0.0).to(tl.float32)
    b_gate = tl.load(gate + (o_n * C)[:, None] + o_c[None, :], mask=m_g, other=0.0).to(tl.float32)
    return b_grad * b_gate * (1.0 - b_gate)


@triton.jit(do_not_specialize=["N", "P", "parts", "momentum", "eps"])
def features_kernel(
    sums, w1, gamma, beta, running_mean, running_var, batches, features, xhat, rstd,
    N, P, parts, momentum, eps,
    C: tl.constexpr, R: tl.constexpr, BATCH_STATISTICS: tl.constexpr, CUMULATIVE: tl.constexpr,
    BN: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):
    """features [N, R] = relu(bn(means @ w1.T)); xhat [N, R] and rstd [R], in float32, are for backward.

    BATCH_STATISTICS: normalised by the mean and variance of the batch, which the running ones follow, by the share
    momentum or, if CUMULATIVE, 1 / batches. grid: blocks of features; BN holds all samples.
    """
    o_n = tl.arange(0, BN)
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    m_r = o_r < R
    m_n = o_n < N
    b_z = tl.zeros((BN, BR), tl.float32)
    for k in range(0, C, BK):
        o_k = k + tl.arange(0, BK)
        b_m = load_means(sums, o_n, o_k, N, C, P, parts, BN, BK).to(w1.dtype.element_ty)
        m_w = (o_k < C)[:, None] & m_r[None, :]
        b_w = tl.load(w1 + o_k[:, None] + (o_r * C)[None, :], mask=m_w, other=0.0)
        b_z = tl.dot(b_m, b_w, b_z, input_precision="ieee")

    b_running_mean = tl.load(running_mean + o_r, mask=m_r, other=0.0).to(tl.float32)
    b_running_var = tl.load(running_var + o_r, mask=m_r, other=1.0).to(tl.float32)
    if BATCH_STATISTICS:
        n = N.to(tl.float32)
        b_mean = tl.sum(tl.where(m_n[:, None], b_z, 0.0), 0) / n
        b_centred = tl.where(m_n[:, None], b_z - b_mean[None, :], 0.0)
        b_var = tl.sum(b_centred * b_centred, 0) / n
        share = 1.0 / tl.load(batches).to(tl.float32) if CUMULATIVE else momentum
        b_running_mean += share * (b_mean - b_running_mean)
        b_running_var += share * (b_var * (n / (n - 1.0)) - b_running_var)
        tl.store(running_mean + o_r, b_running_mean.to(running_mean.dtype.element_ty), mask=m_r)
        tl.store(running_var + o_r, b_running_var.to(running_var.dtype.element_ty), mask=m_r)
    else:
        b_centred = b_z - b_running_mean[None, :]
        b_var = b_running_var
    b_rstd = 1.0 / tl.sqrt(b_var + eps)
    b_xhat = b_centred * b_rstd[None, :]
    b_gamma = tl.load(gamma + o_r, mask=m_r, other=0.0).to(tl.float32)
    b_beta = tl.load(beta + o_r, mask=m_r, other=0.0).to(tl.float32)
    b_h = relu(b_xhat * b_gamma[None, :] + b_beta[None, :])
    m_h = m_n[:, None] & m_r[None, :]
    o_h = (o_n * R)[:, None] + o_r[None, :]
    tl.store(features + o_h, b_h.to(features.dtype.element_ty), mask=m_h)
    tl.store(xhat + o_h, b_xhat, mask=m_h)
    tl.store(rstd + o_r, b_rstd, mask=m_r)


@triton.jit(do_not_specialize=["N", "P", "parts", "stride_grad_n", "stride_grad_c"])
def features_backward_kernel(
    grad, gate, sums, features, xhat, rstd, gamma, w2, dz, dw1, dgamma, dbeta,
    N, P, parts, stride_grad_n, stride_grad_c,
    C: tl.constexpr, R: tl.constexpr, BATCH_STATISTICS: tl.constexpr,
    BN: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr,
):
    """dz [N, R], dw1 [R, C], dgamma and dbeta [R] from grad [N, C]. grid: blocks of features; BN holds all samples."""
    o_n = tl.arange(0, BN)
    o_r = tl.program_id(0) * BR + tl.arange(0, BR)
    m_r = o_r < R
    m_h = (o_n < N)[:, None] & m_r[None, :]
    o_h = (o_n * R)[:, None] + o_r[None, :]
    b_da = tl.zeros((BN, BR), tl.float32)
    for k in range(0, C, BK):
        o_k = k + tl.arange(0, BK)
        b_dl = load_grad_logits(grad, gate, o_n, o_k, N, C, stride_grad_n, stride_grad_c)
        m_w = (o_k < C)[:, None] & m_r[None, :]
        b_w = tl.load(w2 + (o_k * R)[:, None] + o_r[None, :], mask=m_w, other=0.0)
        b_da = tl.dot(b_dl.to(w2.dtype.element_ty), b_w, b_da, input_precision="ieee")
    b_da = tl.where(tl.load(features + o_h, mask=m_h, other=0.0) <= 0.0, 0.0, b_da)

    b_xhat = tl.load(xhat + o_h, mask=m_h, other=0.0)
    b_dbeta = tl.sum(b_da, 0)
    b_dgamma = tl.sum(b_da * b_xhat, 0)
    tl.store(dbeta + o_r, b_dbeta.to(dbeta.dtype.element_ty), mask=m_r)
    tl.store(dgamma + o_r, b_dgamma.to(dgamma.dtype.element_ty), mask=m_r)
    if BATCH_STATISTICS:
        n = N.to(tl.float32)
        b_da = b_da - (b_dbeta / n)[None, :] - b_xhat * (b_dgamma / n)[None, :]
        b_da = tl.where(m_h, b_da, 0.0)
    b_scale = tl.load(gamma + o_r, mask=m_r, other=0.0).to(tl.float32) * tl.load(rstd + o_r, mask=m_r, other=0.0)
    b_dz = (b_da * b_scale[None, :]).to(dz.dtype.element_ty)
    tl.store(dz + o_h, b_dz, mask=m_h)
    for k in range(0, C, BK):
        o_k = k + tl.arange(0, BK)
        b_m = load_means(sums, o_n, o_k, N, C, P, parts, BN, BK).to(dz.dtype.element_ty)
        b_dw = tl.dot(tl.trans(b_dz), b_m, input_precision="ieee")
        m_w = m_r[:, None] & (o_k < C)[None, :]
        tl.store(dw1 + (o_r * C)[:, None] + o_k[None, :], b_dw.to(dw1.dtype.element_ty), mask=m_w)


@triton.jit(do_not_specialize=["N", "P", "stride_grad_n", "stride_grad_c"])
def gate_backward_kernel(
    grad, gate, features, dz, w1, dx, dw2, db2, N, P, stride_grad_n, stride_grad_c,
    C: tl.constexpr, R: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):
    """dw2 [C, R], db2 [C] and dx [N, C], which all P pixels have. grid: blocks of channels; BN holds all samples."""
    o_n = tl.arange(0, BN)
    o_c = tl.program_id(0) * BC + tl.arange(0, BC)
    m_n = o_n < N
    m_c = o_c < C
    b_dl = load_grad_logits(grad, gate, o_n, o_c, N, C, stride_grad_n, stride_grad_c)
    tl.store(db2 + o_c, tl.sum(b_dl, 0).to(db2.dtype.element_ty), mask=m_c)
    b_dl = tl.trans(b_dl.to(features.dtype.element_ty))
    b_dm = tl.zeros((BN, BC), tl.float32)
    for k in range(0, R, BK):
        o_k = k + tl.arange(0, BK)
        m_k = o_k < R
        m_h = m_n[:, None] & m_k[None, :]
        o_h = (o_n * R)[:, None] + o_k[None, :]
        b_h = tl.load(features + o_h, mask=m_h, other=0.0)
        b_dw = tl.dot(b_dl, b_h, input_precision="ieee")
        m_w = m_c[:, None] & m_k[None, :]
        tl.store(dw2 + (o_c * R)[:, None] + o_k[None, :], b_dw.to(dw2.dtype.element_ty), mask=m_w)
        b_dz = tl.load(dz + o_h, mask=m_h, other=0.0)
        m_w = m_k[:, None] & m_c[None, :]
        b_w = tl.load(w1 + (o_k * C)[:, None] + o_c[None, :], mask=m_w, other=0.0)
        b_dm = tl.dot(b_dz, b_w, b_dm, input_precision="ieee")
    m_x = m_n[:, None] & m_c[None, :]
    tl.store(dx + (o_n * C)[:, None] + o_c[None, :], (b_dm / P).to(dx.dtype.element_ty), mask=m_x)
# fmt: on


def forward(operands: Sequence[Tensor], statistics: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The gate [N, C] in three launches, and what backward needs besides.

    operands: input [N, C, H, W], fc1_weight [R, C], gamma and beta [R] of BatchNorm, fc2_weight [C, R] and fc2_bias
    [C], all of one dtype, float32, float16 or bfloat16; 1 (2 if statistics.from_batch) to MOST_SAMPLES samples.
    statistics: those of kerneldna_ops/nn/_trainable_gate.py. The running ones are updated as by nn.BatchNorm1d.
    """
    input, fc1_weight, gamma, beta, fc2_weight, fc2_bias = operands
    x = Pixels.of(input)
    w1, w2 = fc1_weight.contiguous(), fc2_weight.contiguous()
    hidden, channels = w1.shape
    sums = pool(x, statistics.batches if statistics.from_batch else None)
    features = input.new_empty(x.batch, hidden)
    xhat = input.new_empty(x.batch, hidden, dtype=torch.float32)
    rstd = input.new_empty(hidden, dtype=torch.float32)
    launch(
        features_kernel,
        (cdiv(hidden, _BLOCK_R),),
        *(sums, w1, gamma.contiguous(), beta.contiguous(), *statistics[:3], features, xhat, rstd),
        *(x.batch, x.pixels, sums.shape[1], statistics.momentum or 0.0, statistics.eps, channels, hidden),
        BATCH_STATISTICS=statistics.from_batch,
        CUMULATIVE=statistics.momentum is None,
        BR=_BLOCK_R,
        **_all_samples(x.batch, input.dtype),
    )
    if statistics.from_batch:
        torch.autograd.graph.increment_version(statistics[:3])
    gate = input.new_empty(x.batch, channels)
    gate_of(sums, x.pixels, w1, None, features, w2, fc2_bias.contiguous(), gate)
    return gate, (sums, features, xhat, rstd)


def backward(
    grad: Tensor, operands: Sequence[Tensor], statistics: Any, gate: Tensor, kept: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The gradients of the operands, in two launches."""
    input, fc1_weight, gamma, beta, fc2_weight, fc2_bias = operands
    sums, features, xhat, rstd = kept
    batch, channels = gate.shape
    w1, w2 = fc1_weight.contiguous(), fc2_weight.contiguous()
    hidden, pixels = len(w1), input[0, 0].numel()
    dz, dx = torch.empty_like(features), torch.empty_like(gate)
    dw1, dgamma, dbeta, dw2, db2 = (torch.empty_like(t) for t in (w1, gamma, beta, w2, fc2_bias))
    options = _all_samples(batch, input.dtype)
    launch(
        features_backward_kernel,
        (cdiv(hidden, _BLOCK_R),),
        *(grad, gate, sums, features, xhat, rstd, gamma.contiguous(), w2, dz, dw1, dgamma, dbeta),
        *(batch, pixels, sums.shape[1], *grad.stride(), channels, hidden),
        BATCH_STATISTICS=statistics.from_batch,
        BR=_BLOCK_R,
        **options,
    )
    launch(
        gate_backward_kernel,
        (cdiv(channels, _BLOCK_C),),
        *(grad, gate, features, dz, w1, dx, dw2, db2, batch, pixels, *grad.stride(), channels, hidden),
        BC=_BLOCK_C,
        **options,
    )
    return dx[:, :, None, None].expand(input.shape), dw1, dgamma, dbeta, dw2, db2


def _all_samples(batch: int, dtype: torch.dtype) -> dict[str, int]:
    """Block sizes of the kernels that have all samples in one program."""
    block_n = max(16, triton.next_power_of_2(batch))
    # Where there are many samples, a second stage would not fit into the shared memory of sm_86.
    return {"BN": block_n, "BK": 64 // dtype.itemsize, "num_warps": 8, "num_stages": 2 if block_n <= 256 else 1}
