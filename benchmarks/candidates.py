"""The op and its rivals, each a function of the same call."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

import kerneldna_ops.functional
from kerneldna_ops.call import Call

from .cases import DIFFERENTIABLE

STATIC = "static"


@dataclass(frozen=True)
class Candidate:
    """`gradients` names the operands that get one in training; `static_modulation` says which operands it is given;
    `backend` is the one that it needs."""

    about: str
    call: Callable[[Call], Tensor]
    gradients: tuple[str, ...] = DIFFERENTIABLE
    static_modulation: bool = False
    backend: str | None = None


def static(call: Call) -> Tensor:
    return F.conv2d(call.input, call.weight, None, *call.geometry)


def op(call: Call) -> Tensor:
    return torch.ops.kerneldna.conv(*call)


def backend(call: Call, name: str) -> Tensor:
    return kerneldna_ops.functional.conv2d(**call._asdict(), backend=name)


def by(name: str) -> Candidate:
    return Candidate(f"backend={name!r}", partial(backend, name=name), backend=name)


reference = partial(backend, name="reference")
composite = partial(backend, name="composite")


def per_sample_weight(call: Call) -> Tensor:
    """[N, C_out, C_in / groups, kh, kw]: what the published dynamic convolutions build."""
    batch, (_, _, height, width) = len(call.input), call.weight.shape
    channel = call.channel_attention.view(batch, call.groups, 1, -1, 1, 1)
    weight = call.weight.view(1, call.groups, -1, *call.weight.shape[1:]) * channel
    weight = weight.view(batch, *call.weight.shape) * call.spatial_attention.view(batch, 1, 1, height, width)
    return weight * call.filter_attention.view(batch, -1, 1, 1, 1)


def grouped(call: Call) -> Tensor:
    batch, _, height, width = call.input.shape
    weight = per_sample_weight(call).flatten(0, 1)
    *geometry, groups = call.geometry
    y = F.conv2d(call.input.reshape(1, -1, height, width), weight, None, *geometry, groups * batch)
    return y.view(batch, -1, *y.shape[2:])


def loop(call: Call) -> Tensor:
    """One convolution per sample, with f and c outside the weight: the leaner of the two loops."""
    x, weight, s = call.input * call.channel_attention[:, :, None, None], call.weight, call.spatial_attention
    y = [F.conv2d(x[i : i + 1], weight * s[i], None, *call.geometry) for i in range(len(x))]
    return torch.cat(y) * call.filter_attention[:, :, None, None]


@cache
def compiled(call: Callable[[Call], Tensor]) -> Callable[[Call], Tensor]:
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
        "torch.compile of static", lambda call: compiled(static)(call), gradients=("input", "weight")
    ),
    "compiled_reference": Candidate("torch.compile of the reference", lambda call: compiled(reference)(call)),
    "compiled_composite": Candidate("torch.compile of composite", lambda call: compiled(composite)(call)),
}
COMPILED = tuple(name for name in CANDIDATES if name.startswith("compiled"))
GPU_BACKENDS = ("triton", "cuda")
