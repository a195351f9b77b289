from itertools import pairwise

import pytest

from kerneldna_ops import _latency as latency
from kerneldna_ops._latency import Spread, alternate, ratio
from support.fake_device import FakeDevice


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


def test_a_busy_device_is_timed_by_its_kernels_and_not_by_the_launches(monkeypatch):
    device = FakeDevice()
    monkeypatch.setattr(latency.torch, "cuda", device.cuda)
    for kernel in (0.004, 0.005, 0.2):
        # The faster kernel is the one that takes the host longer.
        time, ahead = latency.on_busy_cuda(lambda kernel=kernel: device.launch(0.1 / kernel**0.2, kernel), calls=20)
        assert (time, ahead) == (pytest.approx(kernel), True)


def test_a_delay_that_is_over_too_early_is_made_longer(monkeypatch):
    device = FakeDevice()
    monkeypatch.setattr(latency.torch, "cuda", device.cuda)
    assert latency.on_busy_cuda(lambda: device.launch(1.0, 0.1), calls=30) == (pytest.approx(0.1), True)
    assert len(device.kernels) == 2 + 2 * 30  # two delays


def test_a_host_that_cannot_keep_ahead_is_told(monkeypatch):
    device = FakeDevice(most_ahead=30)
    monkeypatch.setattr(latency.torch, "cuda", device.cuda)
    time, ahead = latency.on_busy_cuda(lambda: device.launch(1.0, 0.1), calls=100)
    assert not ahead
    assert time > 0.5
