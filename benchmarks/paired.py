"""Ratios that hold on a shared machine: candidates take turns, and a ratio is formed within one round."""

import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]
# Seconds per call, and whether nothing disturbed that.
Sample = tuple[float, bool]
# Prepares to take samples of about so many seconds of a call.
Clock = Callable[[Call, float], Callable[[], Sample]]

MOST_RETRIES = 3
FEWEST_ROUNDS = 3
# Two forced context switches in 25 ms are the scheduler's own rhythm; more mean that somebody else had the processor.
SWITCHES_PER_SECOND = 2 / 0.025

# A GPU idles at a fraction of its clock rate.
WARM_UP_SECONDS = 0.5
# The host queues no longer than this for one sample: at 2 us a launch at least, that is as many as the driver takes
# before it makes the host wait.
QUEUE_SECONDS = 0.002
HOST_CALLS = 20


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        low, median, high = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        )
        return Spread(median, low, high, len(values))


@dataclass(frozen=True)
class Rounds:
    """Seconds per call of each candidate, round by round. Not `undisturbed`: others had the processor, and the figures
    say little."""

    seconds: dict[str, list[float]]
    undisturbed: bool

    def time(self, name: str) -> Spread:
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        return Spread.of([a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True)])


def forced_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def sample(call: Call, calls: int) -> Sample:
    """Of the wall clock; disturbed where the process did not keep the processor meanwhile."""
    switches = forced_switches()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    elapsed = time.perf_counter() - start
    return elapsed / calls, forced_switches() - switches <= max(2.0, SWITCHES_PER_SECOND * elapsed)


def undisturbed_sample(call: Call, calls: int) -> Sample:
    for _ in range(1 + MOST_RETRIES):
        per_call, undisturbed = sample(call, calls)
        if undisturbed:
            break
    return per_call, undisturbed


def wall_clock(call: Call, seconds: float) -> Callable[[], Sample]:
    """What a call takes on the CPU."""
    call()
    calls = max(1, round(seconds / sample(call, 1)[0]))
    return lambda: undisturbed_sample(call, calls)


def device_clock(call: Call, seconds: float) -> Callable[[], Sample]:
    """What the kernels of a call take on the current CUDA device, however long the host needs to launch them; disturbed
    where the host did not keep ahead of the device. A call of more launches than the driver takes ahead has its waiting
    in the figure."""
    from kerneldna_ops._latency import on_busy_cuda  # here: the package that is measured on the CPU may be older

    call()  # compiles, and lets cuDNN look for its best algorithm
    torch.cuda.synchronize()
    end = time.perf_counter() + WARM_UP_SECONDS * (not _warm)
    _warm.append(True)
    while True:
        start = time.perf_counter()
        call()
        launched = time.perf_counter() - start
        torch.cuda.synchronize()
        if time.perf_counter() >= end:
            break
    milliseconds, possible = on_busy_cuda(call, 1, _busy(launched))
    calls = max(1, min(round(1e3 * seconds / max(milliseconds, 1e-6)), round(QUEUE_SECONDS / launched)))

    def take() -> Sample:
        milliseconds, ahead = on_busy_cuda(call, calls, _busy(calls * launched))
        return milliseconds / 1e3, ahead or not possible

    return take


_warm: list[bool] = []


def _busy(seconds: float) -> float:
    """Milliseconds for which the device is kept busy while the host queues what takes it so many seconds."""
    return 1 + 2e3 * seconds


def host_clock(call: Call, seconds: float) -> Callable[[], Sample]:
    """What a call takes of the host's time, the CUDA device not awaited: launches, and all the Python before them."""
    call()
    calls = max(1, min(HOST_CALLS, round(seconds / sample(call, 1)[0])))

    def take() -> Sample:
        torch.cuda.synchronize()
        return undisturbed_sample(call, calls)

    return take


def alternate(
    candidates: Mapping[str, Call], rounds: int = 15, sample_seconds: float = 0.02, clock: Clock = wall_clock
) -> Rounds:
    """Times the candidates in turn, every second round in reverse order, `sample_seconds` of calls at a time.

    A sample that was disturbed is taken again, at most three times. A round in which that did not help is replaced by
    another one; where twice the rounds hold fewer than three good ones, all of them are returned, marked."""
    take = {name: clock(call, sample_seconds) for name, call in candidates.items()}
    rounds = max(rounds, FEWEST_ROUNDS)
    good: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    for number in range(2 * rounds):
        order = list(candidates)[:: -1 if number % 2 else 1]
        taken = {name: take[name]() for name in order}
        row = {name: per_call for name, (per_call, _) in taken.items()}
        (good if all(undisturbed for _, undisturbed in taken.values()) else disturbed).append(row)
        if len(good) == rounds:
            break
    enough = len(good) >= FEWEST_ROUNDS
    kept = good if enough else good + disturbed
    return Rounds({name: [row[name] for row in kept] for name in candidates}, enough)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))
