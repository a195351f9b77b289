"""What is timed: cells, the most important first, and the candidates of each, checked before they are timed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.candidates import composite, grouped, static
from benchmarks.cases import DIFFERENTIABLE, Operands, Shape
from kerneldna_ops import use_backend
from kerneldna_ops.backends import composite as composite_backend
from kerneldna_ops.triton_kernels import cost_model

from . import ways
from .machine import PRECISIONS, Machine
from .ways import Way

PLAIN_3X3 = ("64@56", "128@28", "256@14", "512@7")
POINTWISE = ("64->256@56", "256->1024@14", "1024->256@14", "96->576@14", "576->96@14")
DEPTHWISE = ("96@56dw", "576@14dw", "96@56dws2")
DRY_SHAPES = {PLAIN_3X3: ("8@3",), POINTWISE: ("8->16@3",), DEPTHWISE: ("6@3dw",)}
MAIN_BATCH = 128

# Of the norm: operands of 8 and 11 significant bits, rounded two or three times on the way.
TOLERANCES = {"bf16": 2e-2, "fp16": 4e-3, "tf32": 4e-3, "fp32": 1e-4}

Step = Callable[[Operands], tuple[Tensor, ...]]

# The calls of a graph move so many times what the L2 cache holds, and are so many.
CACHES, FEWEST_SETS, MOST_SETS = 3, 8, 128


@dataclass(frozen=True)
class Cell:
    """mode: "forward" or "training" (forward and backward), or "backward", whose parts are timed alone."""

    section: str
    mode: str
    shape: Shape
    batch: int
    precision: str
    most: int | None = None  # configurations to try

    @property
    def name(self) -> str:
        return f"{self.section}: {self.shape.name} b{self.batch} {self.precision}"


@dataclass(frozen=True)
class Candidate:
    """attentions: "none", "c" (f and s static, as published) or "cfs" (all per sample).

    check: whether its results are compared with those of composite in float32. way: if it is one that the tuner's table
    can name. predicted: microseconds.
    """

    call: Callable[[Operands], Any]
    attentions: str
    check: bool = False
    way: Way | None = None
    predicted: float | None = None


def plan(machine: Machine) -> Iterator[Cell]:
    """In the order in which they run while there is time."""

    def of(
        section: str, mode: str, names: tuple[str, ...], batch: int, precision: str, most: int | None = None
    ) -> Iterator[Cell]:
        for name in DRY_SHAPES[names] if machine.dry else names:
            yield Cell(section, mode, _shape(name), 2 if machine.dry else batch, precision, 1 if machine.dry else most)

    main = "fp16" if machine.dry else "bf16"
    yield from of("forward 3x3", "forward", PLAIN_3X3, MAIN_BATCH, main)
    yield from of("forward 1x1", "forward", POINTWISE, MAIN_BATCH, main, 6)
    yield from of("training 3x3", "training", PLAIN_3X3, MAIN_BATCH, main)
    yield from of("backward parts", "backward", PLAIN_3X3, MAIN_BATCH, main)
    yield from of("depthwise", "forward", DEPTHWISE, MAIN_BATCH, main)
    yield from of("depthwise training", "training", DEPTHWISE, MAIN_BATCH, main)
    if machine.dry:
        return
    for batch in (32, 1, 8):
        yield from of(f"forward 3x3 batch {batch}", "forward", PLAIN_3X3, batch, main, 4)
        yield from of(f"forward 1x1 batch {batch}", "forward", POINTWISE[:3], batch, main, 3)
    yield from of("training 1x1", "training", POINTWISE[:3], MAIN_BATCH, main)
    yield from of("training 3x3 batch 32", "training", PLAIN_3X3, 32, main)
    for precision in ("fp16", "tf32", "fp32"):
        yield from of(f"forward 3x3 {precision}", "forward", PLAIN_3X3, MAIN_BATCH, precision, 3)
    for precision in ("fp16", "tf32"):
        yield from of(f"training 3x3 {precision}", "training", PLAIN_3X3, MAIN_BATCH, precision)


def _shape(name: str) -> Shape:
    """Shape.parse knows depthwise with stride 1 only."""
    if name.endswith("dws2"):
        return replace(Shape.parse(name[:-2]), name=name, stride=2)
    return Shape.parse(name)


def args_of(o: Operands, attentions: str = "cfs") -> ways.Args:
    """The arguments of the op."""
    c, f, s = (None, None, None) if attentions == "none" else (o.channel, o.filter, o.spatial)
    return o.input, o.weight, None, c, f, s, (o.stride,) * 2, (o.padding,) * 2, (1, 1), o.groups


def op(o: Operands, attentions: str = "cfs", backend: str = "triton") -> Tensor:
    with use_backend(backend):
        return torch.ops.kerneldna.conv(*args_of(o, attentions))


def candidates(machine: Machine, cell: Cell) -> dict[str, Candidate]:
    return {"forward": _forward, "training": _training, "backward": _backward}[cell.mode](machine, cell)


def _forward(machine: Machine, cell: Cell) -> dict[str, Candidate]:
    kinds = ("cfs",) if machine.dry else ("none", "c", "cfs")
    example = {kind: args_of(operands(cell, torch.device("meta"), kind), kind) for kind in kinds}
    problem, device = ways.problem_of(example["cfs"]), ways.model(machine)
    predicted = {name: getattr(cost_model, name)(problem, device) for name in ("static", "composite", "grouped")}
    found = {
        "static": Candidate(static, "none", predicted=predicted["static"]),
        "composite c": Candidate(composite, "c", predicted=predicted["composite"]),
        "composite cfs": Candidate(composite, "cfs"),
        "grouped cfs": Candidate(grouped, "cfs", predicted=predicted["grouped"]),
        "op c": Candidate(op, "c", check=True),
        "op cfs": Candidate(op, "cfs", check=True),
    }
    for kind, args in example.items():
        for way in [*ways.forward(machine, args, cell.most), *ways.by_cuda_kernels(machine, "conv")]:
            call = _forward_call(way, kind)
            found[f"{way.name} {kind}"] = Candidate(call, kind, True, way, way.predicted)
    return found


def _forward_call(way: Way, kind: str) -> Callable[[Operands], Tensor]:
    return lambda o: way(*args_of(o, kind))


def _training(machine: Machine, cell: Cell) -> dict[str, Candidate]:
    """The output is not kept by the caller; its gradient is given."""
    found = {
        "static": Candidate(with_gradients(static, ("input", "weight")), "none"),
        "composite c": Candidate(with_gradients(composite), "c"),
        "composite cfs": Candidate(with_gradients(composite), "cfs"),
        "grouped cfs": Candidate(with_gradients(grouped), "cfs"),
        "op c": Candidate(with_gradients(op), "c", check=True),
        "op cfs": Candidate(with_gradients(op), "cfs", check=True),
    }
    for name in ways.fused_backends(machine)[1:]:
        step = with_gradients(partial(op, backend=name))
        found |= {f"{name} {kind}": Candidate(step, kind, check=True) for kind in ("c", "cfs")}
    return found


def with_gradients(forward: Callable[[Operands], Tensor], wanted: tuple[str, ...] = DIFFERENTIABLE) -> Step:
    def call(o: Operands) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(o), [getattr(o, name) for name in wanted], o.grad_output)

    return call


def _backward(machine: Machine, cell: Cell) -> dict[str, Candidate]:
    """Backward alone: of the static convolution and its halves, of composite, and of each choice; then its parts."""
    found = {
        "static dx dW": Candidate(_static_backward((True, True, False)), "none"),
        "static dx": Candidate(_static_backward((True, False, False)), "none"),
        "static dW": Candidate(_static_backward((False, True, False)), "none"),
    }

    def rival(kind: str) -> Callable[[Operands], Any]:
        return lambda o: composite_backend.conv_backward(o.grad_output, *args_of(o, kind), ALL)

    for kind in ("cfs",) if machine.dry else ("c", "cfs"):
        found[f"composite {kind}"] = Candidate(rival(kind), kind)
        example = args_of(operands(cell, torch.device("meta"), kind))
        for way in [*ways.backward(example), *ways.by_cuda_kernels(machine, "conv_backward")]:
            found[f"{way.name} {kind}"] = Candidate(_backward_call(way, ALL), kind, True, way)
    kernels = ways.own_kernels(ways.backward(example))
    for name, mask in list(PARTS.items())[: 1 if machine.dry else None]:
        found[f"{name} cfs"] = Candidate(_backward_call(kernels, mask), "cfs", True)
    return found


# In the order of the op's tensors; there is no bias.
ALL = (True, True, False, True, True, True)
PARTS = {
    "dx": (True, False, False, False, False, False),
    "dx dc": (True, False, False, True, False, False),
    "dW": (False, True, False, False, False, False),
    "df": (False, False, False, False, True, False),
    "ds": (False, False, False, False, False, True),
}


def _backward_call(way: Way, mask: tuple[bool, ...]) -> Callable[[Operands], Any]:
    return lambda o: ways.gradients(way, o.grad_output, args_of(o), mask)


def _static_backward(mask: tuple[bool, bool, bool]) -> Callable[[Operands], Any]:
    def call(o: Operands) -> Any:
        geometry = ([o.stride] * 2, [o.padding] * 2, [1, 1], False, [0, 0], o.groups)
        return torch.ops.aten.convolution_backward(o.grad_output, o.input, o.weight, None, *geometry, mask)

    return call


def operands(cell: Cell, device: torch.device, attentions: str = "cfs") -> Operands:
    """channels_last; factors per sample, but f and s static for "c"."""
    shape, batch, dtype = cell.shape, cell.batch, PRECISIONS[cell.precision][0]

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        if device.type == "meta":
            return torch.empty(size, dtype=dtype, device=device)
        return (torch.randn(size, device=device) * scale).to(dtype)

    def image(*size: int, scale: float = 1.0) -> Tensor:
        return normal(*size, scale=scale).contiguous(memory_format=torch.channels_last)

    def factors(*size: int) -> Tensor:
        return 1 + normal(*size, scale=0.25)

    fan_in, per_sample = shape.in_channels // shape.groups, () if attentions == "c" else (batch,)
    scale = (fan_in * shape.kernel**2) ** -0.5
    return Operands(
        input=image(batch, shape.in_channels, shape.size, shape.size),
        weight=image(shape.out_channels, fan_in, shape.kernel, shape.kernel, scale=scale),
        channel=factors(batch, shape.in_channels),
        filter=factors(*per_sample, shape.out_channels),
        spatial=factors(*per_sample, shape.kernel, shape.kernel),
        grad_output=image(batch, shape.out_channels, shape.out_size, shape.out_size),
        stride=shape.stride,
        padding=shape.padding,
        groups=shape.groups,
    )


def operand_sets(machine: Machine, cell: Cell, attentions: str) -> list[Operands]:
    """Copies of the same operands, together beyond the L2 cache."""
    first = operands(cell, machine.device, attentions)
    moved = first.input.nbytes + first.weight.nbytes + first.grad_output.nbytes
    count = 1 if machine.dry else min(max(math.ceil(CACHES * machine.l2 / moved), FEWEST_SETS), MOST_SETS)
    return [_copy(first, cell.mode == "training") for _ in range(count)]


def _copy(o: Operands, differentiable: bool) -> Operands:
    copies = {name: getattr(o, name).clone() for name in (*DIFFERENTIABLE, "grad_output")}
    for name in DIFFERENTIABLE:
        copies[name].requires_grad_(differentiable)
    return replace(o, **copies)
