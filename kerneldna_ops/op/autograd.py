"""Derivatives of conv, and of its gradients, in reverse and in forward mode and to any order.

conv is linear in each of its tensors, and so are its gradients. So no derivative of either needs a kernel of its own:
how one changes where its tensors do is a sum of calls, each with the change of one tensor in the place of that tensor.
That is the tangent of forward mode. In reverse mode it is the gradient that reaches grad_output from the gradients, and
what reaches the tensors from there is a sum of the same kind.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch._guards import TracingContext
from torch.autograd import forward_ad

from .. import backends
from ..backends import Asked
from ..call import TENSORS, BackwardCall, Call, arguments_of, tensors_of

_conv = torch.ops.kerneldna.conv.default
_conv_backward = torch.ops.kerneldna.conv_backward.default
# Asked at every call.
_any_requires_grad = torch._C._any_requires_grad
_transforms_active = torch._C._are_functorch_transforms_active  # of torch.func

_NOTHING = nullcontext()
_OF_GEOMETRY = (None,) * 4  # which has no gradients
_ALL, _BIAS = len(TENSORS), TENSORS.index("bias")
_FACTORS = [i for i in range(_ALL) if i != _BIAS]  # input, weight and the attentions; the bias is added


class Recorded(torch.autograd.Function):
    """An op that autograd records. Its arguments are `below`, which runs the op unrecorded, and those of the op."""

    @classmethod
    def apply(cls, below: Callable[[], Any], *args: Any) -> Any:
        if not _transforms_active():
            return super().apply(below, *args)  # type: ignore[no-untyped-call]

        # The dispatcher comes here once for each transform of torch.func; Function.apply would take them apart again.
        # A function runs its forward without derivatives, but the next transform may be another one that records.
        def recorded_below() -> Any:
            with torch.enable_grad(), _forward_mode():
                return below()

        with enable_single_level_autograd_function():
            return super(torch.autograd.Function, cls).apply(recorded_below, *args)  # type: ignore[misc]


class Conv(Recorded):
    @staticmethod
    def forward(ctx: Any, below: Callable[[], Tensor], *args: Any) -> Tensor:
        call = Call(*args)
        tensors = call.tensors
        # Not the bias: no derivative depends on its values, so it may change before backward, as in F.conv2d.
        ctx.save_for_backward(*(tensors[i] for i in _FACTORS))
        ctx.geometry, ctx.bias_shape = call.geometry, None if call.bias is None else call.bias.shape
        ctx.asked = Asked.here()
        output = below()
        if _in_forward_mode():
            ctx.duals, ctx.shape = tensors, output.shape
            ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return (None,) * (1 + len(Call._fields))
        wanted = tensors_of(ctx.needs_input_grad[1:])
        tensors = list(ctx.saved_tensors)
        tensors.insert(_BIAS, grad_output.new_empty(ctx.bias_shape) if wanted[_BIAS] else None)
        args = arguments_of(tensors, ctx.geometry)
        # Where nothing can record it, the op need not ask whether to.
        unrecorded = not torch.is_grad_enabled() and not _transforms_active()
        below = torch._C._AutoDispatchBelowAutograd() if unrecorded else _NOTHING
        # The saved tensors have gone through autocast, if any: what follows has their dtype.
        with ctx.asked.again(), torch._C._DisableAutocast(), below:
            grads = backends.call(_conv_backward, grad_output, *args, wanted)
        grads = [grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True)]
        return None, *arguments_of(grads, _OF_GEOMETRY)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> Tensor | None:
        tensors = _primals(ctx)
        with _forward_mode():
            return _change_of_conv(tensors, tensors_of(tangents), ctx.geometry, ctx.shape)


class ConvBackward(Recorded):
    @staticmethod
    def forward(ctx: Any, below: Callable[[], tuple[Tensor, ...]], *args: Any) -> tuple[Tensor, ...]:
        grad_output, call, ctx.output_mask = BackwardCall.of(*args)
        tensors = call.tensors
        ctx.save_for_backward(grad_output, *(tensors[i] for i in _FACTORS))
        ctx.geometry = call.geometry
        ctx.asked = Asked.here()
        ctx.set_materialize_grads(False)
        grads = below()
        if _in_forward_mode():
            ctx.duals, ctx.shapes = (grad_output, *tensors), [grad.shape for grad in grads]
        return grads

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_output, *tensors = ctx.saved_tensors
        tensors.insert(_BIAS, None)
        for_grad_output, *wanted = ctx.needs_input_grad[1:-1]
        grad_grads = tuple(grad if made else None for grad, made in zip(grad_grads, ctx.output_mask, strict=True))
        grad_grad_output: Tensor | None = None
        with ctx.asked.again(), torch._C._DisableAutocast():
            if for_grad_output:
                grad_grad_output = _change_of_conv(tensors, grad_grads, ctx.geometry, grad_output.shape)
            grads = _change_of_gradients(grad_output, tensors, grad_grads, ctx.geometry, tensors_of(wanted))
        return None, grad_grad_output, *arguments_of(grads, _OF_GEOMETRY), None

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> tuple[Tensor | None, ...]:
        (grad_output, *tensors), mask = _primals(ctx), ctx.output_mask
        with _forward_mode():
            tangent, *of_forward = tangents[:-1]
            changes = _change_of_gradients(grad_output, tensors, tensors_of(of_forward), ctx.geometry, mask)
            if tangent is not None:
                terms = _conv_backward(tangent, *Call.of(tensors, ctx.geometry), mask)
                changes = [_sum(*pair) if made else None for *pair, made in zip(changes, terms, mask, strict=True)]
        # Here None is no tangent of zero.
        zeros = (
            grad_output.new_zeros(shape) if change is None else change
            for change, shape in zip(changes, ctx.shapes, strict=True)
        )
        return tuple(zeros)


def _change_of_conv(
    tensors: Sequence[Tensor | None], changes: Sequence[Tensor | None], geometry: Any, shape: torch.Size
) -> Tensor | None:
    """How conv changes, to first order, where its tensors do: for each that does, conv with the change in its place."""
    total: Tensor | None = None
    bias = changes[_BIAS]
    for v in _FACTORS:
        if changes[v] is not None:
            replaced = _replaced(tensors, v, changes[v], bias if total is None else None)
            total = _sum(total, _conv(*Call.of(replaced, geometry)))
    return bias[..., None, None].expand(shape) if total is None and bias is not None else total


def _change_of_gradients(
    grad_output: Tensor,
    tensors: Sequence[Tensor | None],
    changes: Sequence[Tensor | None],
    geometry: Any,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The same of the gradients that are wanted. That of a tensor does not depend on the tensor, nor on the bias."""
    totals: list[Tensor | None] = [None] * _ALL
    for v in _FACTORS:
        mask = [wanted[u] and u in _FACTORS and u != v for u in range(_ALL)]
        if changes[v] is not None and any(mask):
            replaced = _replaced(tensors, v, changes[v], None)
            terms = _conv_backward(grad_output, *Call.of(replaced, geometry), mask)
            totals = [_sum(total, term) if m else total for total, term, m in zip(totals, terms, mask, strict=True)]
    return totals


def _replaced(tensors: Sequence[Tensor | None], v: int, by: Tensor | None, bias: Tensor | None) -> list[Tensor | None]:
    replaced = list(tensors)
    replaced[v], replaced[_BIAS] = by, bias
    return replaced


def _sum(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term


# What the dispatcher calls where autograd may have to record an op. torch.library.register_autograd makes such a kernel
# too, but torch.func.grad refuses it.


def conv(keyset: torch._C.DispatchKeySet, *args: Any) -> Tensor:
    def below() -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            # Plain tensors and no mode: below autograd is only the backend, which may have a plan for such calls.
            if backends.python_selects(args[0]) and keyset.raw_repr() & _BELOW_AUTOGRAD in _PLAIN:
                call = Call(*args)
                plan = backends.plan_of(call)
                if plan is not None:
                    return plan(call)  # type: ignore[no-any-return]
            return backends.call(_conv.redispatch, keyset & torch._C._after_autograd_keyset, *args)  # type: ignore[no-any-return]

    if records(args):
        return Conv.apply(below, *Call(*args))  # type: ignore[no-any-return]
    return below()


def conv_backward(keyset: torch._C.DispatchKeySet, *args: Any) -> tuple[Tensor, ...]:
    def below() -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return backends.call(_conv_backward.redispatch, keyset & torch._C._after_autograd_keyset, *args)  # type: ignore[no-any-return]

    if records(args):
        return ConvBackward.apply(below, *args)  # type: ignore[no-any-return]
    return below()


_BELOW_AUTOGRAD = torch._C._after_autograd_keyset.raw_repr()
_PLAIN = {torch._C.DispatchKeySet(key).raw_repr() for key in (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)}


def records(args: tuple[Any, ...]) -> bool:
    if torch.is_grad_enabled() and _any_requires_grad(*args):
        return True
    if not (forward_ad._current_level >= 0 or _transforms_active()):  # without the cost of a call of _in_forward_mode
        return False
    return any(isinstance(arg, Tensor) and _unpacked(arg).tangent is not None for arg in args)


def _in_forward_mode() -> bool:
    """Whether tensors may have tangents. Of a compiled torch.func.jvp forward_ad's count does not say so: the graph
    enters the level in C++."""
    return forward_ad._current_level >= 0 or _transforms_active()


def _unpacked(tensor: Tensor) -> forward_ad.UnpackedDualTensor:
    """Of the only level there is; transforms nest by wrapping tensors."""
    return forward_ad.unpack_dual(tensor, level=0)  # type: ignore[no-any-return]


def _primals(ctx: Any) -> list[Any]:
    """The tensors of a call without their tangents. They need no saving: jvp comes right after the forward."""
    # Such a graph enters the level in C++, where no call could see it without looking into every tensor.
    if TracingContext.try_get() is not None and not _transforms_active():
        raise RuntimeError(
            "kerneldna_ops: torch.autograd.forward_ad.dual_level does not compile, put it around the compiled call, or"
            " use torch.func.jvp"
        )
    duals = ctx.duals
    del ctx.duals
    return [None if dual is None else _unpacked(dual).primal for dual in duals]


def _forward_mode() -> AbstractContextManager[object]:
    """autograd.Function switches it off, but the next transform of torch.func may be another jvp."""
    return forward_ad._set_fwd_grad_enabled(True)
