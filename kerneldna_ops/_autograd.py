"""Gradients of conv, and of those gradients to any order.

conv is linear in each of its tensors, and so is the product of its Jacobian with a vector. So the second derivatives
need no kernel of their own: with G_v the gradient that reaches the gradient of v, the scalar to differentiate is
sum_v <grad_output, conv(.., v replaced by G_v, ..)>, a sum of convolutions again.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .backends import call, chosen_backend, use_backend

_conv = torch.ops.kerneldna.conv.default
_conv_backward = torch.ops.kerneldna.conv_backward.default

_BIAS = 2
_FACTORS = (0, 1, 3, 4, 5)  # input, weight and the attentions: all tensors but the bias, which is added
_NO_TENSORS = (None,) * 5  # stride, padding, dilation, groups, output_mask; autograd ignores a None too many


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.geometry = inputs[6:]
    ctx.backend = chosen_backend()


def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    wanted = _needs_input_grad(ctx, 6)
    with _backend_of(ctx):
        grads = call(_conv_backward, grad_output, *ctx.saved_tensors, *ctx.geometry, wanted)
    return (*(grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True)), *_NO_TENSORS)


def save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.geometry = inputs[7:11]
    ctx.backend = chosen_backend()
    ctx.set_materialize_grads(False)


def double_backward(ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_output, *tensors = ctx.saved_tensors
    tensors[_BIAS] = None
    for_grad_output, *wanted = _needs_input_grad(ctx, 7)
    grad_grad_output: Tensor | None = None
    grads: list[Tensor | None] = [None] * 6

    # The saved tensors have the dtype they were cast to, if any. To cast them again would lose that.
    with _backend_of(ctx), torch._C._DisableAutocast():
        for v in _FACTORS:
            if grad_grads[v] is None:
                continue
            replaced = [*tensors[:v], grad_grads[v], *tensors[v + 1 :]]
            if for_grad_output:
                grad_grad_output = _sum(grad_grad_output, call(_conv, *replaced, *ctx.geometry))
            mask = [wanted[u] and u in _FACTORS and u != v for u in range(6)]
            if any(mask):
                terms = call(_conv_backward, grad_output, *replaced, *ctx.geometry, mask)
                grads = [_sum(grad, term) if w else grad for grad, term, w in zip(grads, terms, mask, strict=True)]
    grad_bias = grad_grads[_BIAS]
    if for_grad_output and grad_bias is not None:
        grad_grad_output = _sum(grad_grad_output, grad_bias[:, None, None].expand_as(grad_output))
    return grad_grad_output, *grads, *_NO_TENSORS


def _needs_input_grad(ctx: Any, count: int) -> tuple[bool, ...]:
    # Of arguments that equal their defaults the dispatcher drops the last ones, and they are missing here.
    return (*ctx.needs_input_grad, *[False] * count)[:count]


def _backend_of(ctx: Any) -> AbstractContextManager[None]:
    """What was chosen explicitly for the forward runs the backward too."""
    return nullcontext() if ctx.backend is None else use_backend(ctx.backend)


def _sum(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term
