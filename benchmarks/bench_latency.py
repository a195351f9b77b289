"""Latency under pytest-benchmark, one group per case. Start with `make bench`, or where there is an NVIDIA GPU with

    pytest benchmarks/bench_latency.py --device cuda --dtype bfloat16 --dtype tf32 -k 'channels_last and b32'

pytest-benchmark times each candidate on its own, minutes apart, which is too noisy for a ratio, and on a GPU it times
the host as well. So the first candidate of a case also has all of them timed in turn, on a GPU by its own clock, and
that time and its ratio to static F.conv2d stand in each one's extra_info."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product

import pytest
import torch

from kerneldna_ops.measure.time import Timed

from .candidates import COMPILED, GPU_BACKENDS, STATIC
from .cases import BATCHES, GPU_BATCHES, LAYOUTS, MODES, PLAIN_SHAPES, SHAPES, Case, Shape, tf32_as_in
from .devices import CPU
from .entries import entry
from .measure import Measured, checked_calls, measure

CANDIDATES = (STATIC, "op", "op_static", "composite", "composite_static")
# Slow and far behind, so only where they are best known.
RIVALS = ("grouped", "loop")


def candidates(case: Case, compiled: bool) -> tuple[str, ...]:
    backends = () if case.device == CPU else GPU_BACKENDS
    rivals = RIVALS if case.shape.name in PLAIN_SHAPES else ()
    return CANDIDATES + backends + rivals + (COMPILED if compiled else ())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    compiled = metafunc.config.getoption("--compiled")
    device = metafunc.config.getoption("--device")
    dtypes = metafunc.config.getoption("--dtype") or ["float32"]
    batches = BATCHES if device == CPU else GPU_BATCHES

    def parameters() -> Iterator[object]:
        for dtype, mode, layout, shape, batch in product(dtypes, MODES, LAYOUTS, SHAPES, batches):
            case = Case(Shape.parse(shape), batch, layout, mode, dtype, device)
            for name in candidates(case, compiled):
                suffix = "" if dtype == "float32" else f"-{dtype}"
                yield pytest.param(case, name, id=f"{shape}-b{batch}-{layout}-{mode}-{name}{suffix}")

    metafunc.parametrize(("case", "candidate"), list(parameters()))


@lru_cache(maxsize=1)
def measured(case: Case, names: tuple[str, ...], rounds: int) -> tuple[dict[str, Timed], Measured]:
    calls, left_out = checked_calls(case, names)
    return calls, measure(case, calls, left_out, rounds)


def awaited(call: Timed) -> Callable[[], None]:
    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def test_latency(benchmark, pytestconfig: pytest.Config, case: Case, candidate: str) -> None:
    names = candidates(case, pytestconfig.getoption("--compiled"))
    with tf32_as_in(case.dtype):
        calls, found = measured(case, names, pytestconfig.getoption("--rounds"))
        fault = found.left_out.get(candidate)
        if fault is not None:
            (pytest.fail if fault.wrong else pytest.skip)(f"{candidate}, {case.name}: {fault.why}")
        benchmark.group = case.name
        benchmark.extra_info.update(entry(case, candidate, found))
        iterations = max(1, round(0.02 / found.rounds.time(candidate).median))
        call = calls[candidate] if case.device == CPU else awaited(calls[candidate])
        benchmark.pedantic(call, rounds=3, iterations=iterations, warmup_rounds=1)
