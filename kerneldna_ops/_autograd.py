"""Gradients of conv, and of those gradients to any order.

conv is linear in each of its tensors, and so is the product of its Jacobian with a vector. So the second derivatives
need no kernel of their own: with G_v the gradient that reaches the gradient of v, the scalar to differentiate is
sum_v <grad_output, conv(.., v replaced by G_v, ..)>, a sum of convolutions again.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from ._arguments import with_defaults
from .backends import Asked, call, plan_of, python_selects

_conv = torch.ops.kerneldna.conv.default
_conv_backward = torch.ops.kerneldna.conv_backward.default

_BIAS = 2
_FACTORS = (0, 1, 3, 4, 5)  # input, weight and the attentions: all tensors but the bias, which is added


class _Function(torch.autograd.Function):
    """One of the two ops, recorded. Its arguments are `below`, which runs the op unrecorded, and those of the op."""

    @classmethod
    def apply(cls, below: Callable[[], Any], *args: Any) -> Any:
        if not torch._C._are_functorch_transforms_active():
            return super().apply(below, *args)  # type: ignore[no-untyped-call]
        # The dispatcher comes here once for each transform of torch.func; Function.apply would take them apart again.
        # A function runs its forward without gradients, but the next transform may be another one that records.
        with enable_single_level_autograd_function():
            return super(torch.autograd.Function, cls).apply(torch.enable_grad()(below), *args)  # type: ignore[misc]


class Conv(_Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[[], Tensor], *args: Any) -> Tensor:
        ctx.save_for_backward(*args[:6])
        ctx.geometry = args[6:]
        ctx.asked = Asked.here()
        return below()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:7]
        # Where nothing can record it, the op need not ask whether to.
        unrecorded = not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        with ctx.asked.again(), torch._C._AutoDispatchBelowAutograd() if unrecorded else nullcontext():
            grads = call(_conv_backward, grad_output, *ctx.saved_tensors, *ctx.geometry, wanted)
        grads = [grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True)]
        return None, *grads, None, None, None, None


class ConvBackward(_Function):
    @staticmethod
    def forward(ctx: Any, below: Callable[[], tuple[Tensor, ...]], *args: Any) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*args[:7])
        ctx.geometry, ctx.output_mask = args[7:11], args[11]
        ctx.asked = Asked.here()
        ctx.set_materialize_grads(False)
        return below()

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_output, *tensors = ctx.saved_tensors
        tensors[_BIAS] = None
        for_grad_output, *wanted = ctx.needs_input_grad[1:8]
        grad_grads = tuple(grad if made else None for grad, made in zip(grad_grads, ctx.output_mask, strict=True))
        grad_grad_output: Tensor | None = None
        grads: list[Tensor | None] = [None] * 6

        # The saved tensors have gone through autocast, if any: what follows has their dtype.
        with ctx.asked.again(), torch._C._DisableAutocast():
            for v in _FACTORS:
                if grad_grads[v] is None:
                    continue
                replaced = [*tensors[:v], grad_grads[v], *tensors[v + 1 :]]
                if for_grad_output:
                    grad_grad_output = _sum(grad_grad_output, _conv(*replaced, *ctx.geometry))
                mask = [wanted[u] and u in _FACTORS and u != v for u in range(6)]
                if any(mask):
                    terms = _conv_backward(grad_output, *replaced, *ctx.geometry, mask)
                    grads = [_sum(grad, term) if w else grad for grad, term, w in zip(grads, terms, mask, strict=True)]
        grad_bias = grad_grads[_BIAS]
        if for_grad_output and grad_bias is not None:
            grad_grad_output = _sum(grad_grad_output, grad_bias[:, None, None].expand_as(grad_output))
        return None, grad_grad_output, *grads, None, None, None, None, None


# What the dispatcher calls where autograd may have to record an op. torch.library.register_autograd makes such a kernel
# too, but torch.func.grad refuses it.


def conv(keyset: torch._C.DispatchKeySet, *args: Any) -> Tensor:
    def below() -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            # Plain tensors and no mode: below autograd is only the backend, which may have a plan for such calls.
            if python_selects(args[0]) and keyset.raw_repr() & _BELOW_AUTOGRAD in _PLAIN:
                complete = with_defaults(*args)
                plan = plan_of(complete)
                if plan is not None:
                    return plan(*complete)  # type: ignore[no-any-return]
            return call(_conv.redispatch, keyset & torch._C._after_autograd_keyset, *args)  # type: ignore[no-any-return]

    if _records(_conv, args):
        return Conv.apply(below, *with_defaults(*args))  # type: ignore[no-any-return]
    return below()


def conv_backward(keyset: torch._C.DispatchKeySet, *args: Any) -> tuple[Tensor, ...]:
    def below() -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return call(_conv_backward.redispatch, keyset & torch._C._after_autograd_keyset, *args)  # type: ignore[no-any-return]

    if _records(_conv_backward, args):
        return ConvBackward.apply(below, *args)  # type: ignore[no-any-return]
    return below()


_BELOW_AUTOGRAD = torch._C._after_autograd_keyset.raw_repr()
_PLAIN = {torch._C.DispatchKeySet(key).raw_repr() for key in (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)}


def _records(op: Any, args: tuple[Any, ...]) -> bool:
    if forward_ad._current_level >= 0 and any(isinstance(arg, Tensor) and _has_tangent(arg) for arg in args):
        raise NotImplementedError(
            f"{op._schema.name} has no forward-mode derivative (jvp, jacfwd): use reverse mode (vjp, jacrev)"
        )
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*args)


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None


def _sum(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term
