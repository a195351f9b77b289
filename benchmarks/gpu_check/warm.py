"""Compiles the kernels of all checks and cells ahead, in parallel, into Triton's cache on disk.

The calls are made on tensors without data while their launches are recorded (triton_kernels/launch.py), so what is
compiled is what will run. Workers need no GPU for that and do not touch it.
"""

import functools
import inspect
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from benchmarks.cases import Shape
from benchmarks.compile_matrix import forms
from benchmarks.compile_matrix.cells import Cell as KernelCell
from kerneldna_ops.triton_kernels.launch import Launch, recording
from kerneldna_ops.triton_kernels.problem import Problem

from . import cells, checkout, correctness, ways
from .checks import cases, on_device
from .machine import PRECISIONS, Machine, precision

META = torch.device("meta")

Thunk = Callable[[], None]


def thunks(machine: Machine) -> Iterator[tuple[str, Thunk]]:
    """The precision and the calls of each check and cell."""
    for name in machine.precisions:
        for case in cases(machine, name):
            yield name, partial(_check, machine, case, name)
        for shape in correctness.DRY_GATES if machine.dry else correctness.GATES:
            yield name, partial(_gates, shape, PRECISIONS[name][0])
    low = "fp16" if machine.dry else "bf16"
    for batch in (cells.MAIN_BATCH, 8, 1):
        for plain in map(Shape.parse, cells.PLAIN_3X3):
            image = (batch, plain.in_channels, plain.size, plain.size)
            yield low, partial(_gates, image, PRECISIONS[low][0])
    for cell in cells.plan(machine):
        yield cell.precision, partial(_cell, machine, cell)


def _check(machine: Machine, case: Any, name: str) -> None:
    call, grad = on_device(case, PRECISIONS[name][0], META)
    args = tuple(call)
    for way in ways.one_of_each_kind(machine, args):
        way(*args)
    for way in ways.backward(args):
        ways.gradients(way, grad, args)


def _gates(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    batch, channels, height, width = shape
    cell = KernelCell("", Problem(batch, channels, channels, height, width, dtype=dtype), "b", 0)
    forms.FORMS["squeeze-excite"](cell)
    if batch > 1:
        forms.FORMS["squeeze-excite training"](cell)


def _cell(machine: Machine, cell: cells.Cell) -> None:
    for kind in ("none", "c", "cfs"):
        o = cells.operands(cell, META, kind)
        args = cells.args_of(o, kind)
        if cell.mode == "forward":
            for way in ways.forward(machine, args, cell.most):
                way(*args)
        elif kind != "none":
            found = ways.backward(args)
            for way in found if cell.mode == "backward" else found[:1]:
                ways.gradients(way, o.grad_output, args, cells.ALL)
            if cell.mode == "backward":
                for mask in cells.PARTS.values():
                    ways.gradients(ways.own_kernels(found), o.grad_output, args, mask)


def recorded(name: str, thunk: Thunk) -> list[Launch]:
    with precision(name), recording() as launches:
        thunk()
    return launches


def jobs(machine: Machine) -> list[tuple[int, int]]:
    """Of launches that run the same machine code the first: the number of its thunk, and its own."""
    found: dict[str, tuple[int, int]] = {}
    for i, (name, thunk) in enumerate(thunks(machine)):
        for j, launch in enumerate(recorded(name, thunk)):
            found.setdefault(identity(launch), (i, j))
    return list(found.values())


def identity(launch: Launch) -> str:
    """What Triton specialises on."""

    def of(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return str(value.dtype)
        if isinstance(value, int) and not isinstance(value, bool):
            return value if value == 1 else (value % 16 == 0, abs(value) >= 2**31)
        if hasattr(value, "block_shape"):
            return str(value.base.dtype), tuple(value.block_shape)
        return value

    parameters = inspect.signature(launch.kernel.fn).parameters
    constants = {name for name, parameter in parameters.items() if parameter.annotation is tl.constexpr}
    args = {name: value if name in constants else of(value) for name, value in launch.args.items()}
    return f"{launch.kernel.__name__} {args} {launch.options}"


class _Absent:
    """What Triton asks of the GPU's driver, of a GPU that the process does not open."""

    def __init__(self, arch: int) -> None:
        self._arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@functools.cache
def compile_for(arch: int) -> None:
    """What this process compiles from now on."""
    torch.set_num_threads(1)
    triton.runtime.driver.set_active(_Absent(arch))


@functools.lru_cache(maxsize=4)
def _launches(machine: Machine, number: int) -> list[Launch]:
    name, thunk = list(thunks(machine))[number]
    return recorded(name, thunk)


def compile_one(machine: Machine, job: tuple[int, int]) -> str | None:
    """Nothing, or why it does not compile."""
    compile_for(machine.arch)
    launch = _launches(machine, job[0])[job[1]]
    try:
        launch.kernel.warmup(grid=launch.grid, enable_fp_fusion=True, **launch.args, **launch.options)
    except Exception as error:
        return f"{launch.kernel.__name__} {launch.options}: {type(error).__name__}: {str(error).strip()[:300]}"
    return None


def compile_all(machine: Machine, seconds: float) -> dict[str, Any]:
    """As many as that time allows; the others are compiled when they are called."""
    begin = time.monotonic()
    wanted = jobs(machine)
    if machine.dry:
        return {"kernels": len(wanted), "compiled": 0, "late": 0, "failures": [], "seconds": 0.0}
    processes = max(1, min((os.cpu_count() or 2) - 1, 32))
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=checkout.ready)
    futures = [pool.submit(compile_one, machine, job) for job in wanted]
    done, late = wait(futures, timeout=max(1.0, seconds - (time.monotonic() - begin)))
    pool.shutdown(wait=False, cancel_futures=True)
    # A worker that cannot start or dies leaves an exception.
    failures = [str(found) for future in done if (found := future.exception() or future.result())]
    took = round(time.monotonic() - begin, 1)
    compiled = len(done) - len(failures)
    return {"kernels": len(wanted), "compiled": compiled, "late": len(late), "failures": failures, "seconds": took}
