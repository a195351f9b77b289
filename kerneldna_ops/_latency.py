"""Times of several callables, taken so that their ratios mean something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

import torch

WARMUP_ROUNDS = 3
# Of on_busy_cuda: no GPU's clock is faster, and a slower one is kept busy the longer; a delay that was too short is so
# many times as long at the next try.
CLOCKS_PER_MILLISECOND = 3_000_000
DELAYS, LONGER = 3, 4
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


def on_busy_cuda(call: Call, calls: int = 1, delay: float = 10.0) -> tuple[float, bool]:
    """Milliseconds that the current CUDA device takes for one of so many calls, and whether the host kept ahead.

    The device is first kept busy for `delay` milliseconds, in which the host queues the calls and an event on either
    side of them. So what counts is the time of the kernels, however much longer the host takes to launch them. Where
    the delay was over before all was queued, the time holds waiting: that is tried again with a longer one, and what
    then is still so is told by False. (The driver lets the host be about 1,000 launches ahead, so no delay helps more
    calls than that.) Caches are as the call before left them.
    """
    for _ in range(DELAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(round(delay * CLOCKS_PER_MILLISECOND))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        ahead = not start.query()
        end.synchronize()
        milliseconds: float = start.elapsed_time(end) / calls
        if ahead:
            break
        delay *= LONGER
    return milliseconds, ahead


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
