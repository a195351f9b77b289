import pytest
import torch
from torch import nn

from kerneldna_ops.demo.memory import peak_training_memory
from kerneldna_ops.demo.model import VARIANTS, build
from kerneldna_ops.models.counting import count_macs, count_parameters
from kerneldna_ops.nn import Adapter

SHARED = ("kerneldna", "kerneldna-dynamic")


def kernels(model):
    """The dense 3x3 kernels that a network owns."""
    return [value for value in model.parameters() if value.dim() == 4 and value.shape[2:] == (3, 3)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_have_one_column_per_class(variant):
    assert build(variant, 0)(torch.randn(3, 1, 32, 32)).shape == (3, 10)


@pytest.mark.parametrize("variant", SHARED)
def test_children_add_no_kernel(variant):
    assert len(kernels(build("static", 0))) == 15
    model = build(variant, 0)
    assert len(kernels(model)) == 15 - 6
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    assert len(adapters) == 6
    saved = 3 * 9 * (32 * 32 + 64 * 64)
    added = sum(map(count_parameters, adapters))
    assert count_parameters(model) == count_parameters(build("static", 0)) - saved + added


@pytest.mark.parametrize("variant", SHARED)
def test_a_shared_kernel_stands_once_in_the_state(variant):
    state = build(variant, 0).state_dict()
    assert sum(value.shape[2:] == (3, 3) for value in state.values() if value.dim() == 4) == 15 - 6
    assert len({value.data_ptr() for value in state.values() if value.numel()}) == len(state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_seed_alone_decides_the_initial_weights(variant):
    torch.manual_seed(123)
    first = build(variant, 7)
    drawn = torch.rand(1)
    torch.manual_seed(123)
    assert torch.equal(torch.rand(1), drawn), "building took from the caller's random numbers"
    second = build(variant, 7)
    other = build(variant, 8)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_macs_of_the_static_network():
    stem = 9 * 16 * 32 * 32
    block = 2 * 9 * 16 * 16 * 32 * 32
    stages = sum(
        (9 * half * width + 5 * 9 * width * width + half * width) * side * side
        for half, width, side in ((16, 32, 16), (32, 64, 8))
    )
    one = stem + block + stages + 64 * 10
    model = build("static", 0)
    assert count_macs(model, torch.randn(1, 1, 32, 32)) == one
    assert count_macs(model, torch.randn(3, 1, 32, 32)) == 3 * one
    assert model.training


def test_macs_of_children_are_those_of_convolutions_and_of_their_adapters():
    image = torch.randn(1, 1, 32, 32)
    static, published, dynamic = (count_macs(build(variant, 0), image) for variant in VARIANTS)
    # Three adapters a stage: fc1 and fc2; when all is dynamic also the heads of f and s.
    assert published - static == sum(3 * 2 * width * (width // 4) for width in (32, 64))
    assert dynamic - published == sum(3 * (width // 4) * (width + 9) for width in (32, 64))


def test_macs_of_grouped_and_strided_convolutions():
    model = nn.Sequential(nn.Conv2d(6, 4, (3, 2), stride=(2, 1), groups=2), nn.Conv2d(4, 4, 1, groups=4))
    assert count_macs(model, torch.randn(1, 6, 9, 8)) == 4 * 7 * (4 * 3 * 3 * 2 + 4)


@pytest.mark.parametrize("variant", SHARED)
def test_every_parameter_of_a_child_learns(variant):
    model = build(variant, 0)
    model(torch.randn(4, 1, 32, 32)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_peak_memory_grows_with_the_batch():
    small, large = (peak_training_memory("static", batch_size, threads=1) for batch_size in (16, 64))
    if small is None or large is None:
        pytest.skip("this system has no /proc")
    images_kept = 15 * 64 * 8 * 8 * 4 * 48 / 2**20  # at least one activation per convolution, the smallest of them
    assert large - small > images_kept
