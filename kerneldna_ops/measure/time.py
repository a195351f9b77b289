"""Times of several calls, taken so that their ratios hold on a machine that others use too: the calls take turns, and a
ratio is formed within one round."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from time import perf_counter

import torch

Timed = Callable[[], object]
# Seconds per call, and whether nothing disturbed that.
Sample = tuple[float, bool]
# Prepares to take samples of about so many seconds of a call.
Clock = Callable[[Timed, float], Callable[[], Sample]]

MOST_RETRIES = 3
FEWEST_ROUNDS = 3
# Two forced context switches in 25 ms are the scheduler's own rhythm; more mean that somebody else had the processor.
SWITCHES_PER_SECOND = 2 / 0.025

# No GPU's clock is faster, and a slower one is kept busy the longer; a delay that was too short is so many times as
# long at the next try.
CLOCKS_PER_SECOND = 3_000_000_000
DELAYS, LONGER = 3, 4
# A GPU idles at a fraction of its clock rate.
WARM_UP_SECONDS = 0.5
# The host queues no longer than this for one sample: at 2 us a launch at least, that is as many as the driver takes
# before it makes the host wait.
QUEUE_SECONDS = 0.002
HOST_CALLS = 20


@dataclass(frozen=True)
class Spread:
    """A median between its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        low, median, high = quantiles(samples, n=4, method="inclusive")
        return cls(low, median, high)

    def __mul__(self, factor: float) -> Spread:
        return Spread(self.low * factor, self.median * factor, self.high * factor)

    def __format__(self, spec: str) -> str:
        """median [low, high], each by `spec`."""
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class Rounds:
    """Seconds per call of each candidate, round by round. Not `undisturbed`: others had the processor, and the figures
    say little."""

    seconds: dict[str, list[float]]
    undisturbed: bool

    def time(self, name: str) -> Spread:
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        """How many times as long as `base`."""
        return Spread.of([one / other for one, other in zip(self.seconds[name], self.seconds[base], strict=True)])


def wall_sample(call: Timed, calls: int = 1) -> Sample:
    """Of the wall clock; disturbed where the process did not keep the processor meanwhile."""
    switches = forced_switches()
    start = perf_counter()
    for _ in range(calls):
        call()
    elapsed = perf_counter() - start
    return elapsed / calls, forced_switches() - switches <= max(2.0, SWITCHES_PER_SECOND * elapsed)


def forced_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def device_sample(call: Timed, calls: int = 1, delay: float = 0.01) -> Sample:
    """Of the current CUDA device's events, on either side of so many calls; disturbed where the host did not keep ahead
    of the device.

    The device is first kept busy for `delay` seconds, in which the host queues it all. So what counts is the time of
    the kernels, however much longer the host takes to launch them. Where the delay was over before all was queued, the
    time holds waiting: that is tried again with a longer one. (The driver lets the host be about 1,000 launches ahead,
    so no delay helps more calls than that.) With delay 0 the device waits for the host as it does in use. Caches are as
    the call before left them.
    """
    for _ in range(DELAYS if delay else 1):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if delay:
            torch.cuda._sleep(round(delay * CLOCKS_PER_SECOND))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        ahead = not start.query()
        end.synchronize()
        if ahead:
            break
        delay *= LONGER
    return start.elapsed_time(end) / 1e3 / calls, ahead


def undisturbed_sample(call: Timed, calls: int) -> Sample:
    for _ in range(1 + MOST_RETRIES):
        seconds, undisturbed = wall_sample(call, calls)
        if undisturbed:
            break
    return seconds, undisturbed


def wall_clock(call: Timed, seconds: float) -> Callable[[], Sample]:
    """What a call takes on the CPU."""
    call()
    calls = max(1, round(seconds / wall_sample(call)[0]))
    return lambda: undisturbed_sample(call, calls)


def device_clock(call: Timed, seconds: float) -> Callable[[], Sample]:
    """What the kernels of a call take on the current CUDA device; see device_sample. A call of more launches than the
    driver takes ahead has its waiting in the figure."""
    call()  # compiles, and lets cuDNN look for its best algorithm
    torch.cuda.synchronize()
    end = perf_counter() + WARM_UP_SECONDS * (not _warm)
    _warm.append(True)
    while True:
        start = perf_counter()
        call()
        launched = perf_counter() - start
        torch.cuda.synchronize()
        if perf_counter() >= end:
            break
    taken, possible = device_sample(call, 1, _delay(launched))
    calls = max(1, min(round(seconds / max(taken, 1e-9)), round(QUEUE_SECONDS / launched)))

    def take() -> Sample:
        taken, ahead = device_sample(call, calls, _delay(calls * launched))
        return taken, ahead or not possible

    return take


_warm: list[bool] = []


def _delay(launched: float) -> float:
    """Seconds for which the device is kept busy while the host queues what takes it `launched`."""
    return 0.001 + 2 * launched


def host_clock(call: Timed, seconds: float) -> Callable[[], Sample]:
    """What a call takes of the host's time, the CUDA device not awaited: launches, and all the Python before them."""
    call()
    calls = max(1, min(HOST_CALLS, round(seconds / wall_sample(call)[0])))

    def take() -> Sample:
        torch.cuda.synchronize()
        return undisturbed_sample(call, calls)

    return take


def alternate(
    calls: Mapping[str, Timed],
    rounds: int = 15,
    sample_seconds: float = 0.02,
    clock: Clock = wall_clock,
    warmups: int = 0,
    on_round: Callable[[], object] = lambda: None,
) -> Rounds:
    """Times the calls in turn, every second round in reverse order, `sample_seconds` of each at a time.

    The first `warmups` rounds do not count. A round in which a sample was disturbed is replaced by another one; where
    twice the rounds hold fewer than three good ones, all of them are returned, marked. `on_round` is called after every
    round.
    """
    take = {name: clock(call, sample_seconds) for name, call in calls.items()}
    good: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    for number in range(-warmups, 2 * rounds):
        taken = {name: take[name]() for name in list(calls)[:: -1 if number % 2 else 1]}
        on_round()
        if number >= 0:
            row = {name: seconds for name, (seconds, _) in taken.items()}
            (good if all(undisturbed for _, undisturbed in taken.values()) else disturbed).append(row)
        if len(good) == rounds:
            break
    enough = len(good) >= min(FEWEST_ROUNDS, rounds)
    kept = good if enough else good + disturbed
    return Rounds({name: [row[name] for row in kept] for name in calls}, enough)
