"""The clocks, who takes turns with whom, and what is made of the samples."""

from types import SimpleNamespace

import pytest

from kerneldna_ops.measure import time
from kerneldna_ops.measure.time import Rounds, Spread, alternate, device_clock, device_sample, host_clock
from support.fake_device import FakeDevice


def test_calls_take_turns_in_alternating_order():
    order, rounds = [], []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    taken = alternate(calls, 4, sample_seconds=0, warmups=3, on_round=lambda: rounds.append(len(order)))
    turns = "".join(order[6:])  # two calls of each prepare it
    assert turns == "cbaabc" * 3 + "cba"
    assert rounds == [6 + 3 * (number + 1) for number in range(7)]
    assert {name: len(times) for name, times in taken.seconds.items()} == dict.fromkeys("abc", 4)


def test_samples_are_seconds_of_one_call_after_the_warm_up(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    calls = []

    def pass_time():
        nonlocal now
        calls.append(now)
        now += 0.5 if len(calls) <= 2 + 3 * 2 else 0.002

    # 1 s of a call of 0.5 s: two for each sample.
    assert alternate({"a": pass_time}, 3, 1.0, warmups=3).seconds == {"a": pytest.approx([0.002] * 3)}
    assert len(calls) == 2 + 2 * 6


def test_disturbed_rounds_do_not_count(monkeypatch):
    samples = iter([(2.0, True), (99.0, False)] * 3 + [(2.0, True)] * 6)
    monkeypatch.setattr(time, "undisturbed_sample", lambda call, calls: next(samples))
    rounds = alternate({"a": lambda: None, "b": lambda: None}, rounds=3)
    assert rounds == Rounds({"a": [2.0] * 3, "b": [2.0] * 3}, undisturbed=True)


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr(time, "undisturbed_sample", lambda call, calls: (1.0, False))
    rounds = alternate({"a": lambda: None}, rounds=3)
    assert rounds == Rounds({"a": [1.0] * 6}, undisturbed=False)


def test_a_ratio_is_formed_within_a_round():
    """A machine that slows down for a while shows in the times and not in the ratio."""
    rounds = Rounds({"op": [2.0, 20.0, 6.0], "static": [1.0, 10.0, 2.0]}, True)
    assert rounds.ratio("op", "static") == Spread(2.0, 2.0, 2.5)
    assert rounds.time("op") == Spread(4.0, 6.0, 13.0)


def test_a_spread_is_a_median_between_quartiles():
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Spread(low=2.0, median=3.0, high=4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    assert f"{Spread(1.0, 2.0, 4.0) * 0.5:.2f}" == "1.00 [0.50, 2.00]"


def test_a_busy_device_is_timed_by_its_kernels_and_not_by_the_launches(monkeypatch):
    device = FakeDevice()
    monkeypatch.setattr(time.torch, "cuda", device.cuda)
    for kernel in (0.004, 0.005, 0.2):
        # The faster kernel is the one that takes the host longer.
        taken, ahead = device_sample(lambda kernel=kernel: device.launch(0.1 / kernel**0.2, kernel), calls=20)
        assert (taken, ahead) == (pytest.approx(kernel / 1e3), True)


def test_a_delay_that_is_over_too_early_is_made_longer(monkeypatch):
    device = FakeDevice()
    monkeypatch.setattr(time.torch, "cuda", device.cuda)
    assert device_sample(lambda: device.launch(1.0, 0.1), calls=30) == (pytest.approx(1e-4), True)
    assert len(device.kernels) == 2 + 2 * 30  # two delays


def test_a_host_that_cannot_keep_ahead_is_told(monkeypatch):
    device = FakeDevice(most_ahead=30)
    monkeypatch.setattr(time.torch, "cuda", device.cuda)
    taken, ahead = device_sample(lambda: device.launch(1.0, 0.1), calls=100)
    assert not ahead
    assert taken > 5e-4


def test_without_delay_the_device_waits_for_the_host_and_a_call_is_timed_once(monkeypatch):
    order = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            order.append("record")

        def query(self):
            return True

        def synchronize(self):
            order.append("synchronize")

        def elapsed_time(self, end):
            return 1.5

    monkeypatch.setattr(time.torch, "cuda", SimpleNamespace(Event=Event))
    assert device_sample(lambda: order.append("call"), delay=0) == (1.5e-3, False)
    assert order == ["record", "call", "record", "synchronize"]


class Device:
    """A CUDA device and its host, by the milliseconds that each takes for a call: (host, device)."""

    def __init__(self, most_ahead=1000):
        self.now, self.calls, self.most_ahead = 0.0, [], most_ahead

    def call(self, host, device):
        def launch():
            self.now += host / 1e3
            self.calls.append((host, device))

        return launch

    def sample(self, call, calls, delay):
        """As device_sample; a delay that is too short for the queue shows in the time."""
        before = len(self.calls)
        for _ in range(calls):
            call()
        host = sum(h for h, _ in self.calls[before:])
        device = sum(d for _, d in self.calls[before:])
        ahead = host <= 1e3 * delay and calls <= self.most_ahead
        return (device if ahead else max(host, device)) / 1e3 / calls, ahead


@pytest.fixture
def gpu(monkeypatch):
    device = Device()
    monkeypatch.setattr(time, "_warm", [])
    monkeypatch.setattr(time, "device_sample", device.sample)
    monkeypatch.setattr(time.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(time, "perf_counter", lambda: device.now)
    return device


def test_on_a_gpu_the_kernels_are_timed_and_not_the_host(gpu):
    calls = {"a": gpu.call(0.3, 0.01), "b": gpu.call(0.02, 0.02), "long": gpu.call(5, 30)}
    rounds = alternate(calls, rounds=3, clock=device_clock)
    assert rounds.undisturbed
    medians = {name: rounds.time(name).median for name in calls}
    assert medians == pytest.approx({"a": 1e-5, "b": 2e-5, "long": 3e-2})
    assert gpu.calls.count((0.3, 0.01)) * 0.3e-3 >= time.WARM_UP_SECONDS  # the clocks, before the first timing


def test_a_call_of_more_launches_than_can_be_queued_has_its_waiting_in_the_figure(gpu):
    gpu.most_ahead = 0
    rounds = alternate({"loop": gpu.call(4, 1)}, rounds=3, clock=device_clock)
    assert rounds.undisturbed
    assert rounds.time("loop").median == pytest.approx(4e-3)


def test_the_host_s_time_of_a_call_is_that_until_it_returns(gpu):
    rounds = alternate({"a": gpu.call(0.3, 0.01)}, rounds=3, clock=host_clock)
    assert rounds.time("a").median == pytest.approx(3e-4)
