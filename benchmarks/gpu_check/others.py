"""What is timed beside the convolution: squeeze-excite, the CPU's time for a call, and peak memory."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Shape
from benchmarks.compile_matrix import forms
from benchmarks.compile_matrix.cells import Cell as KernelCell
from kerneldna_ops import use_backend
from kerneldna_ops.backends import chosen_backend
from kerneldna_ops.nn import SqueezeExcite
from kerneldna_ops.triton_kernels.launch import recording
from kerneldna_ops.triton_kernels.problem import Problem

from .cells import CACHES, FEWEST_SETS, MAIN_BATCH, MOST_SETS, PLAIN_3X3, Cell, candidates, operands
from .machine import PRECISIONS, Machine, precision
from .measure import Row, spread_us
from .timing import in_turn, on_the_cpu, peak_memory, reason
from .ways import fused_backends

Job = tuple[str, Callable[[], list[Row]]]


def squeeze_excite(machine: Machine) -> Iterator[Job]:
    names = ("6@3",) if machine.dry else PLAIN_3X3
    for batch in (2,) if machine.dry else (MAIN_BATCH, 8, 1):
        for name in names:
            for mode in ("inference", "training"):
                if mode == "inference" or batch > 1:
                    yield f"squeeze-excite {mode} {name} b{batch}", partial(_gate, machine, name, batch, mode)


def _gate(machine: Machine, name: str, batch: int, mode: str) -> list[Row]:
    shape, low = Shape.parse(name), "fp16" if machine.dry else "bf16"
    dtype = PRECISIONS[low][0]
    module = SqueezeExcite(shape.in_channels).to(machine.device, dtype).train(mode == "training")
    first = torch.randn(batch, shape.in_channels, shape.size, shape.size, device=machine.device).to(dtype)
    first = first.contiguous(memory_format=torch.channels_last)
    sets = 1 if machine.dry else min(max(CACHES * machine.l2 // first.nbytes, FEWEST_SETS), MOST_SETS)
    inputs = [first.clone().requires_grad_(mode == "training") for _ in range(sets)]
    gradient = torch.randn(batch, shape.in_channels, device=machine.device).to(dtype)
    call = partial(_inference if mode == "inference" else _training, module, gradient)
    fused = ["triton"] if mode == "training" else fused_backends(machine)
    ways = {"eager": call, **{backend: partial(_by_backend, backend, call) for backend in fused}}
    timed = in_turn(machine, {way: [partial(f, x) for x in inputs] for way, f in ways.items()})
    launches = {"triton": gate_launches(shape.in_channels, shape.size, batch, dtype, mode)}
    where = {"section": "squeeze-excite", "mode": mode, "shape": name, "batch": batch, "precision": low}
    rows: list[Row] = []
    for way in ways:
        time = timed.seconds.get(way)
        row = {**where, "candidate": way, **(spread_us(time) if time else {"error": timed.errors[way]})}
        rows.append(row | ({"launches": launches[way]} if way in launches else {}))
    return rows


def gate_launches(channels: int, size: int, batch: int, dtype: torch.dtype, mode: str) -> int:
    problem = Problem(batch, channels, channels, size, size, dtype=dtype)
    form = "squeeze-excite" + " training" * (mode == "training")
    with recording() as launches:
        forms.FORMS[form](KernelCell(form, problem, "b", 90))
    return len(launches)


def _by_backend(backend: str, call: Callable[[Tensor], Any], x: Tensor) -> Any:
    with use_backend(backend):
        return call(x)


def _inference(module: Any, gradient: Tensor, x: Tensor) -> Tensor:
    """By PyTorch's operators, unless the op is chosen: BatchNorm folded in both."""
    with torch.no_grad():
        return module(x) if chosen_backend() else _eager_gate(module, x)


def _eager_gate(module: Any, x: Tensor) -> Tensor:
    weight, bias = module._folded.get(
        module._fold, module.fc1.weight, module.bn.weight, module.bn.bias, module.bn.running_mean, module.bn.running_var
    )
    hidden = nn.functional.linear(x.mean((2, 3)), weight, bias).relu_()
    return nn.functional.linear(hidden, module.fc2.weight, module.fc2.bias).sigmoid_()


def _training(module: Any, gradient: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    gate = module(x) if chosen_backend() else module.gate(module.hidden(x))
    return torch.autograd.grad(gate, [x, *module.parameters()], gradient)


def overhead(machine: Machine) -> Iterator[Job]:
    """Of the smallest batch, where the CPU decides."""
    for name in ("8@3",) if machine.dry else ("256@14", "256->1024@14"):
        yield f"launch overhead {name}", partial(_overhead, machine, name)


def _overhead(machine: Machine, name: str) -> list[Row]:
    low = "fp16" if machine.dry else "bf16"
    cell = Cell("launch overhead", "forward", Shape.parse(name), 1, low, 1)
    where = {"section": cell.section, "mode": cell.mode, "shape": name, "batch": 1, "precision": low}
    rows: list[Row] = []
    with precision(low):
        for candidate, how in candidates(machine, cell).items():
            if machine.dry and how.way is not None and how.way.backend == "triton":
                continue
            o = operands(cell, machine.device, how.attentions)
            row = {**where, "candidate": candidate, "attentions": how.attentions}
            try:
                time = on_the_cpu(machine, partial(how.call, o))
            except Exception as error:
                rows.append({**row, "error": reason(error)})
            else:
                rows.append({**row, **spread_us(time)})
    return rows


def memory(machine: Machine) -> Iterator[Job]:
    for name in ("8@3",) if machine.dry else PLAIN_3X3:
        for mode in ("forward", "training"):
            yield f"peak memory {mode} {name}", partial(_memory, machine, name, mode)


def _memory(machine: Machine, name: str, mode: str) -> list[Row]:
    low = "fp16" if machine.dry else "bf16"
    batch = 2 if machine.dry else MAIN_BATCH
    cell = Cell("peak memory", mode, Shape.parse(name), batch, low, 1)
    where = {"section": cell.section, "mode": mode, "shape": name, "batch": batch, "precision": low}
    rows: list[Row] = []
    with precision(low):
        for candidate, how in candidates(machine, cell).items():
            if how.way is not None and how.way.backend == "triton":
                continue
            o = operands(cell, machine.device, how.attentions)
            if mode == "training":
                for tensor in (o.input, o.weight, o.channel, o.filter, o.spatial):
                    tensor.requires_grad_()
            row = {**where, "candidate": candidate, "attentions": how.attentions}
            try:
                rows.append({**row, "bytes": peak_memory(machine, partial(how.call, o))})
            except Exception as error:
                rows.append({**row, "error": reason(error)})
    return rows
