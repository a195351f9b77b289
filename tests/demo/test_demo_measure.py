import pytest
import torch

from kerneldna_ops._latency import Spread
from kerneldna_ops.demo import measure
from kerneldna_ops.demo.model import VARIANTS

FACTORS = dict(zip(VARIANTS, (1.0, 2.0, 4.0), strict=True))


@pytest.fixture
def costs(few_digits, monkeypatch):
    """What `measure` makes of known samples: 1 and 3 ms for static's forward pass, ten times that for its training."""
    turns = []

    def known_samples(calls, rounds, on_round):
        results = {name: call() for name, call in calls.items()}
        turns.append(results)
        unit = 10.0 ** (len(turns) - 1)
        return {name: [FACTORS[name] * unit, FACTORS[name] * 3 * unit] for name in calls}

    monkeypatch.setattr(measure, "alternate", known_samples)
    monkeypatch.setattr(measure, "peak_training_memory", lambda variant, batch_size, threads: FACTORS[variant] * 100)
    costs = measure.measure(few_digits.train, 2, lambda: None)
    forward, training = turns
    for scores in forward.values():
        assert scores.shape == (measure.BATCH_SIZE, 10)
        assert torch.is_inference(scores)
    assert list(training) == list(VARIANTS)
    return costs


@pytest.mark.parametrize("variant", VARIANTS)
def test_costs_are_those_of_the_samples(costs, variant):
    factor = FACTORS[variant]
    cost = costs[variant]
    assert cost.forward_ms == Spread(1.5 * factor, 2 * factor, 2.5 * factor)
    assert cost.training_ms == Spread(15 * factor, 20 * factor, 25 * factor)
    assert cost.forward_ratio == cost.training_ratio == Spread(factor, factor, factor)
    assert cost.peak_memory == 100 * factor


def test_the_bar_is_as_long_as_there_are_ticks(few_digits, monkeypatch):
    monkeypatch.setattr(measure, "peak_training_memory", lambda *_: None)
    ticks = []
    measure.measure(few_digits.train, 2, lambda: ticks.append(1))
    assert len(ticks) == measure.number_of_ticks(2)
