"""How long calls take: replays of a CUDA graph with cold caches, candidates in turn. A dry run has the wall clock.

A graph holds one candidate's calls on one set of operands after the other, together more than the L2 cache, so that no
call finds its operands there, as in a network; and no call waits for the CPU. All results live until the end, so that
none is written where the one before it still lies in the cache. Graphs of all candidates are replayed in turn, every
second round in reverse order, so that what disturbs the machine disturbs all of them.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.paired import Spread

from .machine import Machine

Call = Callable[[], object]

ROUNDS = 25
FEWEST_ROUNDS = 5
# A graph is not made longer than this for the caches' sake: its calls then move much more than the cache holds.
GRAPH_SECONDS = 0.01
# All rounds of a cell together.
CELL_SECONDS = 1.0
CALLS_ON_THE_CPU = 100


# Clocks for which the device is kept busy before a timed replay, so that no gap before its first kernel is timed.
BUSY_CLOCKS = 100_000


@dataclass
class Timed:
    """Seconds of a call of each candidate, and why it has none."""

    seconds: dict[str, Spread]
    errors: dict[str, str]


def in_turn(machine: Machine, candidates: Mapping[str, Sequence[Call]]) -> Timed:
    """Of each candidate the same call on several sets of operands. One that raises is left out."""
    runs: dict[str, Callable[[], float]] = {}
    errors: dict[str, str] = {}
    place = None if machine.dry else _Place()
    for name, calls in candidates.items():
        try:
            runs[name] = _WallClock(calls[0]) if place is None else _Graph(calls, place)
        except Exception as error:  # whatever a compiler, a driver or cuDNN has against it
            errors[name] = reason(error)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    if machine.dry:
        rounds = 1
    else:
        once = sum(run() * run.calls for run in runs.values())
        rounds = max(FEWEST_ROUNDS, min(ROUNDS, round(CELL_SECONDS / max(once, 1e-6))))
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            taken[name].append(runs[name]())
    runs.clear()
    if not machine.dry:
        torch.cuda.empty_cache()
    return Timed({name: Spread.of(found) for name, found in taken.items()}, errors)


def reason(error: BaseException) -> str:
    """The first line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


class _WallClock:
    """Calling it returns the seconds of a call."""

    calls = 1

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self) -> float:
        start = time.perf_counter()
        self._call()
        return time.perf_counter() - start


class _Place:
    """Where the graphs of a cell are captured: one after the other they may use the same memory, since only one of them
    runs at a time and nobody reads what they leave."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()


class _Graph:
    """Calling it replays the graph and returns the seconds of one of its calls."""

    def __init__(self, calls: Sequence[Call], place: _Place) -> None:
        place.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(place.stream):
            calls[0]()  # compiles, and lets cuDNN look for its best algorithm
            place.stream.synchronize()
            start = time.perf_counter()
            calls[0]()
            place.stream.synchronize()
            once = time.perf_counter() - start
            self.calls = max(1, min(len(calls), round(GRAPH_SECONDS / once)))
            self._graph = torch.cuda.CUDAGraph()
            self._graph.capture_begin(place.pool, capture_error_mode="thread_local")
            try:
                results = [call() for call in calls[: self.calls]]
            except BaseException:
                with contextlib.suppress(Exception):
                    self._graph.capture_end()
                raise
            self._graph.capture_end()
            del results
        torch.cuda.current_stream().wait_stream(place.stream)
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self()

    def __call__(self) -> float:
        start, end = self._events
        torch.cuda._sleep(BUSY_CLOCKS)
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / self.calls


def eager(machine: Machine, call: Call, count: int) -> Spread:
    """Seconds on the device of single calls, caches as the call before left them."""
    if machine.dry:
        run = _WallClock(call)
        return Spread.of([run()])
    for _ in range(3):
        call()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for start, end in events:
        start.record()
        call()
        end.record()
    machine.synchronize()
    return Spread.of([start.elapsed_time(end) / 1e3 for start, end in events])


def on_the_cpu(machine: Machine, call: Call) -> Spread:
    """Seconds of the CPU's time until a call returns, the GPU's work not awaited."""
    samples = []
    count = 1 if machine.dry else CALLS_ON_THE_CPU
    call()
    for _ in range(1 if machine.dry else 7):
        machine.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        samples.append((time.perf_counter() - start) / count)
    machine.synchronize()
    return Spread.of(samples)


def peak_memory(machine: Machine, call: Call) -> int:
    """Bytes that a call takes at most beside its operands, its results included; 0 in a dry run."""
    call()
    if machine.dry:
        return 0
    machine.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    machine.synchronize()
    return torch.cuda.max_memory_allocated() - before


def ceilings(machine: Machine) -> dict[str, float]:
    """What the device reaches at best: TB/s of a large copy, read and written, and TFLOP/s of a large product."""
    size, elements = (64, 1 << 16) if machine.dry else (8192, 1 << 29)
    dtype = torch.float32 if machine.dry else torch.bfloat16
    source, target = (torch.randn(elements, device=machine.device).to(dtype) for _ in range(2))
    a, b = (torch.randn(size, size, device=machine.device).to(dtype) for _ in range(2))
    copy, product = eager(machine, lambda: target.copy_(source), 10), eager(machine, lambda: a @ b, 10)
    return {
        "copy_tb_per_s": 2 * source.nbytes / copy.median / 1e12,
        "matmul_tflop_per_s": 2 * size**3 / product.median / 1e12,
    }
