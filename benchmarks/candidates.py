"""The op and its rivals, each a function of the same operands."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kerneldna_ops.functional

from .cases import DIFFERENTIABLE, Operands

STATIC = "static"


@dataclass(frozen=True)
class Candidate:
    """`gradients` names the operands that get one in training; `static_modulation` says which operands it is given;
    `backend` is the one that it needs."""

    about: str
    call: Callable[[Operands], Tensor]
    gradients: tuple[str, ...] = DIFFERENTIABLE
    static_modulation: bool = False
    backend: str | None = None


def static(o: Operands) -> Tensor:
    return F.conv2d(o.input, o.weight, None, o.stride, o.padding, 1, o.groups)


def op(o: Operands) -> Tensor:
    stride, padding = [o.stride] * 2, [o.padding] * 2
    return torch.ops.kerneldna.conv(
        o.input, o.weight, None, o.channel, o.filter, o.spatial, stride, padding, [1, 1], o.groups
    )


def arguments(o: Operands) -> dict[str, Any]:
    """Those of kerneldna_ops.functional.conv2d, all but the backend."""
    attentions = {"channel_attention": o.channel, "filter_attention": o.filter, "spatial_attention": o.spatial}
    return {
        "input": o.input,
        "weight": o.weight,
        **attentions,
        "stride": o.stride,
        "padding": o.padding,
        "groups": o.groups,
    }


def backend(o: Operands, name: str) -> Tensor:
    return kerneldna_ops.functional.conv2d(**arguments(o), backend=name)


def by(name: str) -> Candidate:
    return Candidate(f"backend={name!r}", partial(backend, name=name), backend=name)


reference = partial(backend, name="reference")
composite = partial(backend, name="composite")


def per_sample_weight(o: Operands) -> Tensor:
    """[N, C_out, C_in / groups, kh, kw]: what the published dynamic convolutions build."""
    batch, groups = o.input.shape[0], o.groups
    channel = o.channel.view(batch, groups, 1, -1, 1, 1)
    weight = o.weight.view(1, groups, -1, *o.weight.shape[1:]) * channel
    weight = weight.view(batch, *o.weight.shape) * o.spatial.view(batch, 1, 1, *o.weight.shape[2:])
    return weight * o.filter.view(batch, -1, 1, 1, 1)


def grouped(o: Operands) -> Tensor:
    batch = o.input.shape[0]
    weight = per_sample_weight(o).flatten(0, 1)
    y = F.conv2d(o.input.reshape(1, -1, *o.input.shape[2:]), weight, None, o.stride, o.padding, 1, o.groups * batch)
    return y.view(batch, -1, *y.shape[2:])


def loop(o: Operands) -> Tensor:
    """One convolution per sample, with f and c outside the weight: the leaner of the two loops."""
    x = o.input * o.channel[:, :, None, None]
    y = [F.conv2d(x[i : i + 1], o.weight * o.spatial[i], None, o.stride, o.padding, 1, o.groups) for i in range(len(x))]
    return torch.cat(y) * o.filter[:, :, None, None]


@cache
def compiled(call: Callable[[Operands], Tensor]) -> Callable[[Operands], Tensor]:
    return torch.compile(call, dynamic=False)


CANDIDATES = {
    STATIC: Candidate("F.conv2d, no attention", static, gradients=("input", "weight")),
    "op": Candidate("torch.ops.kerneldna.conv, c, f and s per sample", op),
    "op_static": Candidate("the same with c per sample, f and s static", op, static_modulation=True),
    "composite": Candidate("backend='composite'", composite),
    "composite_static": Candidate("the same with f and s static", composite, static_modulation=True),
    "triton": by("triton"),
    "cuda": by("cuda"),
    "grouped": Candidate("weights per sample, groups = batch", grouped),
    "loop": Candidate("F.conv2d per sample", loop),
    "compiled_static": Candidate(
        "torch.compile of static", lambda o: compiled(static)(o), gradients=("input", "weight")
    ),
    "compiled_reference": Candidate("torch.compile of the reference", lambda o: compiled(reference)(o)),
    "compiled_composite": Candidate("torch.compile of composite", lambda o: compiled(composite)(o)),
}
COMPILED = tuple(name for name in CANDIDATES if name.startswith("compiled"))
GPU_BACKENDS = ("triton", "cuda")
