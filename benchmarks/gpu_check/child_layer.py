"""One child layer of KernelDNA in inference, squeeze-excite and a convolution of the gated input, in small batches.

There launches decide: on the device, where a graph is replayed, and on the CPU, which has to start them. The rival is
what a network without KernelDNA would run for as many multiplications: a static convolution, and squeeze-excite by
PyTorch's own operators, whose gate nobody uses. Static attentions are folded into the weight, BatchNorm into fc1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import Shape
from kerneldna_ops import backends

from . import ways
from .cells import CACHES, FEWEST_SETS, MOST_SETS, TOLERANCES
from .machine import PRECISIONS, Machine
from .measure import Row, off, spread_us
from .timing import in_turn, on_the_cpu, reason

SHAPES, BATCHES = ("256@14", "512@7"), (1, 8)
REDUCTION = 4


@dataclass(frozen=True)
class Layer:
    input: Tensor
    weight: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor
    padding: int

    @property
    def gate_args(self) -> tuple[Tensor, ...]:
        return self.input, self.fc1_weight, self.fc1_bias, self.fc2_weight, self.fc2_bias


Gate = Callable[..., Tensor]
Conv = Callable[..., Tensor]
Job = tuple[str, Callable[[], tuple[list[Row], list[str]]]]


def jobs(machine: Machine) -> Iterator[Job]:
    for batch in (2,) if machine.dry else BATCHES:
        for name in ("8@3",) if machine.dry else SHAPES:
            yield f"child layer {name} b{batch}", partial(_measure, machine, name, batch)


def linear_gate(x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor) -> Tensor:
    hidden = F.linear(x.mean((2, 3)), fc1_weight, fc1_bias).relu_()
    return F.linear(hidden, fc2_weight, fc2_bias).sigmoid_()


def pointwise_gate(x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor) -> Tensor:
    """As squeeze-excite is mostly written."""
    hidden = F.conv2d(F.adaptive_avg_pool2d(x, 1), fc1_weight[..., None, None], fc1_bias).relu_()
    return F.conv2d(hidden, fc2_weight[..., None, None], fc2_bias).sigmoid_().flatten(1)


def candidates(machine: Machine) -> dict[str, Callable[[Layer], Tensor]]:
    """Called "static" are the rivals; "op" takes the backends that the automatic choice takes."""
    load, composite = backends.load, backends.load("composite").conv
    found = {
        "static, linear gate": partial(_static, linear_gate),
        "static, 1x1 gate": partial(_static, pointwise_gate),
        "op": partial(_child, torch.ops.kerneldna.squeeze_excite, torch.ops.kerneldna.conv),
        "composite, linear gate": partial(_child, linear_gate, composite),
    }
    for name in ways.fused_backends(machine):
        found[name] = partial(_child, load(name).squeeze_excite, load(name).conv)
        found[f"composite, {name} gate"] = partial(_child, load(name).squeeze_excite, composite)
    return found


def _static(gate: Gate, layer: Layer) -> Tensor:
    gate(*layer.gate_args)
    return F.conv2d(layer.input, layer.weight, padding=layer.padding)


def _child(gate: Gate, conv: Conv, layer: Layer) -> Tensor:
    geometry = [1, 1], [layer.padding] * 2, [1, 1], 1
    return conv(layer.input, layer.weight, None, gate(*layer.gate_args), None, None, *geometry)


def _measure(machine: Machine, name: str, batch: int) -> tuple[list[Row], list[str]]:
    low = "fp16" if machine.dry else "bf16"
    first = _layer(Shape.parse(name), batch, PRECISIONS[low][0], machine.device)
    moved = sum(tensor.nbytes for tensor in vars(first).values() if isinstance(tensor, Tensor))
    sets = 1 if machine.dry else min(max(CACHES * machine.l2 // moved, FEWEST_SETS), MOST_SETS)
    layers = [_map(first, Tensor.clone) for _ in range(sets)]
    found = candidates(machine)
    wrong = {
        candidate: f"off by {error:.1e} of the norm"
        for candidate, call in found.items()
        if not candidate.startswith("static") and not (error := _error(call, first)) <= TOLERANCES[low]
    }
    calls = {candidate: call for candidate, call in found.items() if candidate not in wrong}
    where = {"section": "child layer", "shape": name, "batch": batch, "precision": low, "attentions": "c"}
    rows: list[Row] = []
    torch.backends.cudnn.benchmark = True
    try:
        timed = in_turn(machine, {candidate: [partial(call, o) for o in layers] for candidate, call in calls.items()})
        for candidate, call in calls.items():
            time = timed.seconds.get(candidate)
            figures = spread_us(time) if time else {"error": timed.errors[candidate]}
            rows.append({**where, "mode": "forward", "candidate": candidate, **figures})
            rows.append({**where, "mode": "on the CPU", "candidate": candidate, **_on_the_cpu(machine, call, first)})
    finally:
        torch.backends.cudnn.benchmark = False
    return rows, [f"child layer {name} b{batch}, {candidate}: {why}" for candidate, why in wrong.items()]


def _on_the_cpu(machine: Machine, call: Callable[[Layer], Tensor], layer: Layer) -> Row:
    try:
        return dict(spread_us(on_the_cpu(machine, partial(call, layer))))
    except Exception as error:
        return {"error": reason(error)}


def _error(call: Callable[[Layer], Tensor], layer: Layer) -> float:
    """Of the norm, against composite in float32; one that raises is timed and leaves its error there."""
    exact = _child(linear_gate, backends.load("composite").conv, _map(layer, Tensor.float))
    try:
        return off([call(layer)], [exact])
    except Exception:
        return 0.0


def _layer(shape: Shape, batch: int, dtype: torch.dtype, device: torch.device) -> Layer:
    def normal(*size: int, fan_in: int = 1) -> Tensor:
        return (torch.randn(size, device=device) * fan_in**-0.5).to(dtype)

    channels, hidden = shape.in_channels, max(shape.in_channels // REDUCTION, 1)
    taps = shape.in_channels * shape.kernel**2
    return Layer(
        input=normal(batch, channels, shape.size, shape.size).contiguous(memory_format=torch.channels_last),
        weight=normal(shape.out_channels, channels, shape.kernel, shape.kernel, fan_in=taps).contiguous(
            memory_format=torch.channels_last
        ),
        fc1_weight=normal(hidden, channels, fan_in=channels),
        fc1_bias=normal(hidden),
        fc2_weight=normal(channels, hidden, fan_in=hidden),
        fc2_bias=normal(channels),
        padding=shape.padding,
    )


def _map(layer: Layer, function: Callable[[Tensor], Tensor]) -> Layer:
    return Layer(**{k: function(v) if isinstance(v, Tensor) else v for k, v in vars(layer).items()})
