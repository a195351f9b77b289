"""Ratios that hold on a shared machine: candidates take turns, and a ratio is formed within one round."""

import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CALL = Callable[[], object]
MOST_RETRIES = 3
# Two forced context switches in 25 ms are the scheduler's own rhythm; more mean that somebody else had the processor.
SWITCHES_PER_SECOND = 2 / 0.025


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
    """Seconds per call of each candidate, round by round."""

    seconds: dict[str, list[float]]
    discarded: int

    def time(self, name: str) -> Spread:
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        return Spread.of([a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True)])


def forced_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def sample(call: CALL, calls: int) -> tuple[float, bool]:
    """Seconds per call over so many calls, and whether the process kept the processor meanwhile."""
    switches = forced_switches()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    elapsed = time.perf_counter() - start
    return elapsed / calls, forced_switches() - switches <= max(2.0, SWITCHES_PER_SECOND * elapsed)


def alternate(candidates: Mapping[str, CALL], rounds: int = 15, sample_seconds: float = 0.02) -> Rounds:
    """Times the candidates in turn, every second round in reverse order, `sample_seconds` of calls at a time.

    A sample during which the process was preempted is taken again, at most three times; the last one counts."""
    calls = {}
    for name, call in candidates.items():
        call()
        calls[name] = max(1, round(sample_seconds / sample(call, 1)[0]))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    discarded = 0
    for number in range(rounds):
        for name in list(candidates)[:: -1 if number % 2 else 1]:
            for _ in range(1 + MOST_RETRIES):
                per_call, undisturbed = sample(candidates[name], calls[name])
                if undisturbed:
                    break
                discarded += 1
            seconds[name].append(per_call)
    return Rounds(seconds, discarded)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))
