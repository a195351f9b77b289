"""Squeeze-and-excitation as the package runs it beside PyTorch's own operators: alone in inference and in training, and
in a child layer, whose rival is a static convolution beside a gate that nobody uses. Paired ratios.

    python -m benchmarks.squeeze_excite --batches 1,8
    python -m benchmarks.squeeze_excite --device cuda --dtype bfloat16 --batches 1,8,128 --json squeeze_excite.json

In inference BatchNorm is folded for all alike. On a GPU times are the device's, and the host's stand beside them."""

import argparse
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.fusion import fuse_linear_bn_eval

from kerneldna_ops import use_backend
from kerneldna_ops.functional import conv2d
from kerneldna_ops.measure.time import Timed, alternate, host_clock
from kerneldna_ops.nn import SqueezeExcite

from .cases import DTYPES, PLAIN_SHAPES, Shape, tf32_as_in
from .devices import CPU, clock_of, operand_sets, torch_device
from .measure import HOST_ROUNDS, TOLERANCE, in_turn
from .options import add_device, listed, one_of, parsed
from .process import KEEP_MEMORY, description, restart_with

MODES = ("inference", "training", "child layer")
BASE = "eager"
Gate = Callable[[Tensor], Tensor]


class Layer:
    """A gate, the weight of a convolution behind it, and what they are called on."""

    def __init__(self, shape: Shape, batch: int, dtype: str, device: str) -> None:
        torch.manual_seed(0)
        channels, size = shape.in_channels, shape.size
        self.module = SqueezeExcite(channels)
        self.weight = torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5
        self.input = torch.randn(batch, channels, size, size) + torch.randn(channels, 1, 1)
        self.grad_output = torch.randn(batch, channels)
        self.to(torch_device(device), DTYPES[dtype])

    def to(self, *where: Any) -> "Layer":
        self.module = self.module.to(*where)
        self.weight, self.input = (
            tensor.to(*where, memory_format=torch.channels_last) for tensor in (self.weight, self.input)
        )
        self.grad_output = self.grad_output.to(*where)
        return self

    def eager(self) -> Gate:
        """BatchNorm folded."""
        fc1, fc2 = fuse_linear_bn_eval(self.module.fc1, self.module.bn), self.module.fc2
        return lambda x: torch.sigmoid(fc2(torch.relu(fc1(x.mean((2, 3))))))

    def called_one_by_one(self, x: Tensor) -> Tensor:
        module = self.module
        return torch.sigmoid(module.fc2(torch.relu(module.bn(module.fc1(x.mean((2, 3)))))))

    def candidates(self, mode: str) -> dict[str, Callable[[Tensor], Sequence[Tensor]]]:
        module = self.module.train(mode == "training")
        if mode == "training":
            gates = {BASE: self.called_one_by_one, "module": module}
            return {name: partial(self._training, gate) for name, gate in gates.items()}
        gates = {BASE: self.eager(), "module": module}
        gates |= {name: partial(_by, name, module) for name in ("triton", "cuda")}
        if mode == "inference":
            return {name: partial(self._inference, gate) for name, gate in gates.items()}
        return {name: partial(self._child_layer, name, gate) for name, gate in gates.items()}

    def _training(self, gate: Gate, x: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(gate(x), [x, *self.module.parameters()], self.grad_output)

    @torch.no_grad()
    def _inference(self, gate: Gate, x: Tensor) -> Sequence[Tensor]:
        return [gate(x)]

    @torch.no_grad()
    def _child_layer(self, name: str, gate: Gate, x: Tensor) -> Sequence[Tensor]:
        if name == BASE:
            return [gate(x), F.conv2d(x, self.weight, padding=1)]
        factors = gate(x)
        return [factors, conv2d(x, self.weight, channel_attention=factors, padding=1)]


def _by(name: str, module: SqueezeExcite, x: Tensor) -> Tensor:
    with use_backend(name):
        return module(x)


def measure(layer: Layer, mode: str, dtype: str, device: str, rounds: int) -> dict[str, Any]:
    exact = deepcopy(layer).to(torch.promote_types(DTYPES[dtype], torch.float32))
    with tf32_as_in("float32"):
        truth = exact.candidates(mode)[BASE](exact.input.requires_grad_(mode == "training"))
    x = layer.input.requires_grad_(mode == "training")
    copies = operand_sets(device, x.nbytes)
    inputs = [x, *(x.detach().clone().requires_grad_(mode == "training") for _ in range(copies - 1))]
    calls: dict[str, Timed] = {}
    left_out = {}
    allowed: list[float] = []
    for name, call in layer.candidates(mode).items():
        try:
            found = call(x)
        except RuntimeError as error:  # a backend that cannot run, and says why
            left_out[name] = str(error).strip().splitlines()[0]
            continue
        # Of a child layer's two results the gate is compared: the convolution has benchmarks of its own.
        pairs = zip(found[:1] if mode == "child layer" else found, truth, strict=False)
        off = [((got - wanted).abs().max() / wanted.abs().max()).item() for got, wanted in pairs]
        allowed = allowed or [TOLERANCE[dtype] + 2 * error for error in off]
        assert all(a <= b for a, b in zip(off, allowed, strict=True)), f"{name}, {mode}: off by {off} of the range"
        calls[name] = in_turn(partial(call, each) for each in inputs)
    taken = alternate(calls, rounds, clock=clock_of(device))
    row = {
        "undisturbed": taken.undisturbed,
        "left_out": left_out,
        "seconds": {name: taken.time(name).median for name in calls},
        f"to_{BASE}": {name: vars(taken.ratio(name, BASE)) for name in calls if name != BASE},
    }
    if device != CPU:
        host = alternate(calls, min(rounds, HOST_ROUNDS), clock=host_clock)
        row["host_seconds"] = {name: host.time(name).median for name in calls}
    return row


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plain = [Shape.parse(name) for name in PLAIN_SHAPES]
    parser.add_argument("--shapes", type=listed(Shape.parse), default=plain, help="such as " + ", ".join(PLAIN_SHAPES))
    parser.add_argument("--batches", type=listed(int), default=[1, 8])
    parser.add_argument("--modes", type=listed(one_of(MODES)), default=list(MODES))
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    add_device(parser)
    return parser


def main() -> None:
    restart_with(KEEP_MEMORY)
    options = parsed(parser())
    machine = {name: value for name, value in description(options.device).items() if name != "package"}
    rows = []
    for mode, batch, shape in product(options.modes, options.batches, options.shapes):
        if mode == "training" and batch == 1:
            continue  # BatchNorm compares samples
        with tf32_as_in(options.dtype):
            layer = Layer(shape, batch, options.dtype, options.device)
            row = measure(layer, mode, options.dtype, options.device, options.rounds)
        rows.append({"mode": mode, "shape": shape.name, "batch": batch, "dtype": options.dtype, **row})
        ratios = ", ".join(f"{name} {found['median']:.2f}" for name, found in row[f"to_{BASE}"].items())
        base = f"{1e6 * row['seconds'][BASE]:.1f} us"
        host = {name: f"{1e6 * seconds:.0f}" for name, seconds in row.get("host_seconds", {}).items()}
        print(f"{mode}, {shape.name} b{batch}: {BASE} {base}; to {BASE}: {ratios}; host, us: {host}", flush=True)
        if options.json:
            options.json.write_text(json.dumps({"machine_info": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
