"""Whatever evaluates a network leaves each of its modules in the mode that it was in."""

import contextlib

import pytest
import torch
from torch import nn

from kerneldna_ops import share_kernels
from kerneldna_ops._eval_mode import eval_mode
from kerneldna_ops.analysis import cka
from kerneldna_ops.models import count_macs
from kerneldna_ops.training.accuracy import score
from kerneldna_ops.training.in_memory import make_data


def network():
    """In training, but for a BatchNorm that is frozen and a part that is done with."""
    done = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)).eval()
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), done)
    model.append(nn.Flatten()).append(nn.Linear(4 * 8 * 8, 3))
    model[1].eval()
    return model


IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def evaluate(model):
    labels = torch.arange(8) % 3
    return score(model, make_data("random", (IMAGES, labels), (IMAGES, labels)).validation)


@pytest.mark.parametrize(
    "work",
    [
        lambda model: count_macs(model, IMAGES),
        evaluate,
        lambda model: cka(model, [IMAGES]),
        lambda model: share_kernels(model, {"2": ["3.0"]}, weight="measured", batches=[IMAGES]),
    ],
    ids=["count_macs", "score", "cka", "share_kernels"],
)
def test_every_module_keeps_its_mode(work):
    model = network()
    before = {name: module.training for name, module in model.named_modules()}
    statistics = model[1].running_mean.clone(), model[3][1].running_mean.clone()
    work(model)
    after = {name: module.training for name, module in model.named_modules()}
    assert {name: after[name] for name in before} == before
    assert torch.equal(model[1].running_mean, statistics[0])
    assert torch.equal(model[3][1].running_mean, statistics[1])


def test_the_modes_come_back_after_an_exception():
    model = network()
    with contextlib.suppress(ArithmeticError), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise ArithmeticError
    assert [model.training, model[0].training, model[1].training, model[3].training] == [True, True, False, False]
