from itertools import pairwise

import pytest

from kerneldna_ops import _latency as latency
from kerneldna_ops._latency import Spread, alternate, ratio


def test_calls_take_turns_in_both_orders():
    order = []
    rounds = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    samples = alternate(calls, 4, lambda: rounds.append(len(order)))
    assert rounds == [3 * (k + 1) for k in range(latency.WARMUP_ROUNDS + 4)]
    turns = ["".join(order[k : k + 3]) for k in range(0, len(order), 3)]
    assert set(turns) == {"abc", "cba"}
    assert all(one != other for one, other in pairwise(turns))
    assert {name: len(times) for name, times in samples.items()} == dict.fromkeys("abc", 4)


def test_samples_are_milliseconds_of_one_call_after_the_warm_up(monkeypatch):
    now = 0.0
    monkeypatch.setattr(latency, "perf_counter", lambda: now)

    def pass_time():
        nonlocal now
        calls.append(now)
        now += 0.5 if len(calls) <= latency.WARMUP_ROUNDS else 0.002

    calls: list[float] = []
    assert alternate({"a": pass_time}, 3, lambda: None) == {"a": pytest.approx([2.0] * 3)}


def test_a_ratio_pairs_the_rounds():
    """A machine that slows down for a while shows in the times and not in the ratio."""
    assert ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == Spread(2.0, 2.0, 2.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Spread(2.0, 3.0, 4.0)
