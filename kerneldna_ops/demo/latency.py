"""Times of several callables, taken so that their ratios mean something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

WARMUP_ROUNDS = 3


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


def alternate(
    calls: dict[str, Callable[[], object]], rounds: int, on_round: Callable[[], object]
) -> dict[str, list[float]]:
    """Milliseconds of each of `calls` in each of `rounds` rounds, at least 2.

    Every round runs each of them once, every other round in reverse order, so that what slows the machine for a while
    slows them alike: sample k of one belongs with sample k of the others. `on_round` is called after every round.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(WARMUP_ROUNDS + rounds):
        for name in list(calls) if number % 2 else reversed(calls):
            start = perf_counter()
            calls[name]()
            if number >= WARMUP_ROUNDS:
                samples[name].append(1e3 * (perf_counter() - start))
        on_round()
    return samples


def ratio(samples: list[float], base: list[float]) -> Spread:
    """How many times as long as `base`, round by round."""
    return Spread.of([one / other for one, other in zip(samples, base, strict=True)])
