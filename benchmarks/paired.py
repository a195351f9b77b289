"""Ratios that hold on a shared machine: candidates take turns, and a ratio is formed within one round."""

import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Call = Callable[[], object]
MOST_RETRIES = 3
FEWEST_ROUNDS = 3
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


def sample(call: Call, calls: int) -> tuple[float, bool]:
    """Seconds per call over so many calls, and whether the process kept the processor meanwhile."""
    switches = forced_switches()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    elapsed = time.perf_counter() - start
    return elapsed / calls, forced_switches() - switches <= max(2.0, SWITCHES_PER_SECOND * elapsed)


def undisturbed_sample(call: Call, calls: int) -> tuple[float, bool]:
    for _ in range(1 + MOST_RETRIES):
        per_call, undisturbed = sample(call, calls)
        if undisturbed:
            break
    return per_call, undisturbed


def alternate(candidates: Mapping[str, Call], rounds: int = 15, sample_seconds: float = 0.02) -> Rounds:
    """Times the candidates in turn, every second round in reverse order, `sample_seconds` of calls at a time.

    A sample during which the process was preempted is taken again, at most three times. A round in which that did not
    help is replaced by another one; where the machine is so busy that twice the rounds hold fewer than three good ones,
    all of them are returned, marked."""
    calls = {}
    for name, call in candidates.items():
        call()
        calls[name] = max(1, round(sample_seconds / sample(call, 1)[0]))
    rounds = max(rounds, FEWEST_ROUNDS)
    good: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    for number in range(2 * rounds):
        order = list(candidates)[:: -1 if number % 2 else 1]
        taken = {name: undisturbed_sample(candidates[name], calls[name]) for name in order}
        row = {name: per_call for name, (per_call, _) in taken.items()}
        (good if all(undisturbed for _, undisturbed in taken.values()) else disturbed).append(row)
        if len(good) == rounds:
            break
    enough = len(good) >= FEWEST_ROUNDS
    kept = good if enough else good + disturbed
    return Rounds({name: [row[name] for row in kept] for name in candidates}, enough)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))
