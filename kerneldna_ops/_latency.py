"""Times of several callables, taken so that their ratios mean something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

import torch

WARMUP_ROUNDS = 3
Call = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """A median between its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        low, _, high = quantiles(samples, n=4, method="inclusive")
        return cls(low, median(samples), high)


def on_cpu(call: Call) -> float:
    """Milliseconds until the call returns."""
    start = perf_counter()
    call()
    return 1e3 * (perf_counter() - start)


def on_cuda(call: Call) -> float:
    """Milliseconds that the current CUDA device is at work on the call, or waits within it for the next kernel."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds


def alternate(
    calls: dict[str, Call],
    rounds: int,
    on_round: Callable[[], object] = lambda: None,
    warmups: int = WARMUP_ROUNDS,
    stopwatch: Callable[[Call], float] = on_cpu,
) -> dict[str, list[float]]:
    """Milliseconds of each of `calls` in each of `rounds` rounds, after `warmups` that do not count.

    Every round runs each of them once, every other round in reverse order, so that what slows the machine for a while
    slows them alike: sample k of one belongs with sample k of the others. `on_round` is called after every round.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warmups + rounds):
        for name in list(calls) if number % 2 else reversed(calls):
            milliseconds = stopwatch(calls[name])
            if number >= warmups:
                samples[name].append(milliseconds)
        on_round()
    return samples


def ratio(samples: list[float], base: list[float]) -> Spread:
    """How many times as long as `base`, round by round."""
    return Spread.of([one / other for one, other in zip(samples, base, strict=True)])
