"""The truth of a case in float64, and what plain PyTorch makes of it in another precision; computed once each.

Truths are computed on the CPU; what plain PyTorch makes of a case, on the device where the case is tested.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kerneldna_ops.call import TENSORS, Call
from kerneldna_ops.reference import conv2d_reference
from support import oracle
from support.cases import CPU, Case, build, grad_output
from support.tolerance import Truth, largest, plain_dtype

# Beyond this the loops are too slow, and the reference, which the loops check (test_oracle.py), takes over.
LARGEST_FOR_LOOPS = 20_000

Gradients = tuple[Tensor | None, ...]


def map_tensors(function: Callable[[Tensor], Tensor], call: Call) -> Call:
    return Call.of([None if tensor is None else function(tensor) for tensor in call.tensors], call.geometry)


def by_autograd(conv: Callable[[Call], Tensor], call: Call, grad: Tensor) -> Gradients:
    """The gradients of all tensors of the call, None for those that are absent."""
    leaves = map_tensors(lambda tensor: tensor.detach().requires_grad_(), call)
    given = iter(torch.autograd.grad(conv(leaves), [leaf for leaf in leaves.tensors if leaf is not None], grad))
    return tuple(None if leaf is None else next(given) for leaf in leaves.tensors)


def reference(call: Call) -> Tensor:
    return conv2d_reference(*call)


@functools.cache
def output(case: Case) -> Truth:
    return output_of(case, build(case))


def output_of(case: Case, call: Call) -> Truth:
    """call has the shapes of the case, and values of its own."""
    loops = case.products <= LARGEST_FOR_LOOPS
    value, size = (oracle.conv(*c) if loops else reference(c) for c in (call, map_tensors(Tensor.abs, call)))
    return Truth("output", value, largest(size), case.terms)


@functools.cache
def gradients(case: Case) -> tuple[Truth | None, ...]:
    return gradients_of(case, build(case), grad_output(case))


def gradients_of(case: Case, call: Call, grad: Tensor) -> tuple[Truth | None, ...]:
    def backward(call: Call, grad: Tensor) -> Gradients:
        loops = case.products <= LARGEST_FOR_LOOPS
        return oracle.conv_backward(grad, *call) if loops else by_autograd(reference, call, grad)

    truths: list[Truth | None] = []
    both = zip(TENSORS, backward(call, grad), backward(map_tensors(Tensor.abs, call), grad.abs()), strict=True)
    for name, value, size in both:
        if value is None or size is None:
            truths.append(None)
        else:
            products = math.prod(case.output) if name == "bias" else case.products
            truths.append(Truth(f"gradient of {name}", value, largest(size), max(products / max(value.numel(), 1), 1)))
    return tuple(truths)


def sample_by_sample(call: Call) -> Tensor:
    """What a user writes by hand: F.conv2d on each sample, with c on its input, s on the weight and f on its output."""
    input, c, f, s = call.input, call.channel_attention, call.filter_attention, call.spatial_attention
    if c is not None:
        input = input * c[..., None, None]
    weights = [call.weight] * len(input) if call.kernels == "shared" else list(call.weight)
    if call.kernel_attention is not None:
        weights = [sum(a * w for a, w in zip(shares, call.weight, strict=True)) for shares in call.kernel_attention]
    if s is not None:
        weights = [weight * (s if s.dim() == 2 else s[n]) for n, weight in enumerate(weights)]
    geometry = (None, call.stride, call.padding, call.dilation, call.groups)
    output = torch.cat([F.conv2d(input[n : n + 1], weights[n], *geometry) for n in range(len(input))])
    if f is not None:
        output = output * f[..., None, None]
    return output if call.bias is None else output + call.bias[..., None, None]


def plain_forms(case: Case) -> list[Callable[[Call], Tensor]]:
    """The op in plain PyTorch, in two ways: all factors in one kernel per sample, or c and f on input and output."""
    return [reference, sample_by_sample] if case.input[0] > 0 else [reference]


def plain_outputs(case: Case, dtype: torch.dtype, device: torch.device = CPU) -> list[tuple[Tensor]]:
    return _plain_outputs(case, plain_dtype(dtype, device), device)


@functools.cache
def _plain_outputs(case: Case, dtype: torch.dtype, device: torch.device) -> list[tuple[Tensor]]:
    return plain_outputs_of(case, build(case, dtype, device))


def plain_outputs_of(case: Case, call: Call) -> list[tuple[Tensor]]:
    return [(form(call).cpu(),) for form in plain_forms(case)]


def plain_gradients(case: Case, dtype: torch.dtype, device: torch.device = CPU) -> list[Gradients]:
    return _plain_gradients(case, plain_dtype(dtype, device), device)


@functools.cache
def _plain_gradients(case: Case, dtype: torch.dtype, device: torch.device) -> list[Gradients]:
    return plain_gradients_of(case, build(case, dtype, device), grad_output(case, dtype, device))


def plain_gradients_of(case: Case, call: Call, grad: Tensor) -> list[Gradients]:
    gradients = (by_autograd(form, call, grad) for form in plain_forms(case))
    return [tuple(None if gradient is None else gradient.cpu() for gradient in of_form) for of_form in gradients]
