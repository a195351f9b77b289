"""The weight that ChildConv2d folds in eval mode: computed once, dropped whenever something in it changes."""

import plain_layers
import pytest
import torch
from plain_layers import randomise
from torch import nn

from kerneldna_ops.backends._winners import CLASSES, Winner
from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.nn._fold_cache import FoldCache

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(autouse=True)
def composite_wins(winners):
    """The fused kernel of the CPU needs no folding."""
    winners(dict.fromkeys(range(CLASSES), Winner("composite", "for this test")))


@pytest.fixture
def child():
    return randomise(ChildConv2d(randomise(nn.Conv2d(8, 12, 3, padding=1, bias=False).double()))).eval()


@pytest.fixture
def input():
    return torch.randn(3, 8, 6, 5, dtype=torch.float64)


@pytest.fixture
def folds(child, monkeypatch):
    """Grows by one with every fold."""
    count, fold = [], child._fold
    monkeypatch.setattr(child, "_fold", lambda: count.append(1) or fold())
    return count


def sources(child):
    return child.parent.weight, child.adapter.filter_attention, child.adapter.spatial_attention


def in_place(index):
    def write(child):
        with torch.no_grad():
            sources(child)[index].mul_(1.5)

    return write


def optimizer_step(child):
    for source in sources(child):
        source.grad = torch.randn_like(source)
    torch.optim.SGD(sources(child), 1.0, momentum=0.9).step()


def fused_optimizer_step(child):
    """PyTorch does not count what fused optimizers write."""
    optimizer = torch.optim.AdamW(sources(child), 0.1, fused=True)
    child(torch.randn(2, 8, 6, 5, dtype=torch.float64)).square().sum().backward()
    optimizer.step()


def fused_training_step(child):
    fused_optimizer_step(child)
    child.zero_grad(), child.parent.zero_grad()


def validation_between_backward_and_fused_step(child):
    input = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    child(input).square().sum().backward()
    with torch.no_grad():
        child(input)
    torch.optim.AdamW(sources(child), 0.1, fused=True).step()
    child.zero_grad(), child.parent.zero_grad()


def load_parent(child):
    child.parent.load_state_dict({"weight": torch.randn_like(child.parent.weight)})


def load_child(child):
    state = child.state_dict()
    state["adapter.spatial_attention"] = torch.randn(3, 3)
    child.load_state_dict(state)


def load_by_assignment(child):
    child.parent.load_state_dict({"weight": torch.randn_like(child.parent.weight)}, assign=True)


def write_to_state_dict(child):
    """As moving averages of weights do."""
    child.state_dict()["adapter.filter_attention"].mul_(1.5)


def set_data(child):
    child.parent.weight.data = child.parent.weight.data * 1.5


def set_data_to_freed_memory(child):
    """The second new memory is likely to be where the first one was."""
    for factor in (1.5, 2.0):
        child.adapter.filter_attention.data = child.adapter.filter_attention.data * factor


def set_data_to_another_view(child):
    child.adapter.spatial_attention.data = child.adapter.spatial_attention.data.t()


def new_parameter(child):
    child.adapter.filter_attention = nn.Parameter(child.adapter.filter_attention.detach() * 1.5)


def new_parameter_on_the_same_memory(child):
    """It counts its own writes, here up to where the old one stood."""
    old, new = child.parent.weight, nn.Parameter(child.parent.weight.data)
    child.parent.weight = new
    with torch.no_grad():
        for _ in range(old._version):
            new.mul_(1.5)


def new_parent(child):
    child.parent = nn.Conv2d(8, 12, 3, padding=1, bias=False).double()


def uncounted_write_then(method):
    def write(child):
        child.parent.weight.data.mul_(1.5)
        method(child)

    return write


CHANGES = {
    "weight.mul_()": in_place(0),
    "f.mul_()": in_place(1),
    "s.mul_()": in_place(2),
    "optimizer step": optimizer_step,
    "fused optimizer step": fused_optimizer_step,
    "fused training step": fused_training_step,
    "validation before a fused step": validation_between_backward_and_fused_step,
    "load_state_dict of the parent": load_parent,
    "load_state_dict of the child": load_child,
    "load_state_dict(assign=True)": load_by_assignment,
    "state_dict()[...].mul_()": write_to_state_dict,
    ".data =": set_data,
    ".data = twice": set_data_to_freed_memory,
    ".data = another view": set_data_to_another_view,
    "new parameter": new_parameter,
    "new parameter on the same memory": new_parameter_on_the_same_memory,
    "new parent": new_parent,
    ".data.mul_() and eval()": uncounted_write_then(lambda child: child.eval()),
    ".data.mul_() and train().eval()": uncounted_write_then(lambda child: child.train().eval()),
    ".data.mul_() and to()": uncounted_write_then(lambda child: child.to(torch.float64)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_follows(change, child, input):
    with torch.no_grad():
        before = child(input)
    CHANGES[change](child)
    with torch.no_grad():
        after = child(input)
        torch.testing.assert_close(after, plain_layers.child(child, input))
        assert not after.allclose(before)


def test_the_fused_kernel_of_the_cpu_needs_no_weight_of_its_own(child, input, folds, winners):
    with torch.no_grad():
        folded = child(input)
        winners({})
        torch.testing.assert_close(child(input), folded)
        assert len(folds) == 1
        assert child._folded._held is None


def test_computed_once(child, input, folds):
    for _ in range(3):
        with torch.no_grad():
            child(input)
        with torch.inference_mode():
            child(input)
    assert len(folds) == 1


def test_dynamic_attention_is_not_folded(input):
    child = randomise(ChildConv2d(nn.Conv2d(8, 12, 3).double(), filter="dynamic")).eval()
    with torch.no_grad():
        child(input)
        assert child._fold().equal(child.parent.weight * (1 + child.adapter.spatial_attention))
    child = ChildConv2d(nn.Conv2d(8, 12, 3).double(), filter="dynamic", spatial=None).eval()
    with torch.no_grad():
        child(input)
    assert child._folded._held is None


def test_nothing_is_kept_for_training(child, input, folds):
    with torch.no_grad():
        child(input)
    assert child._folded._held is not None
    child.train()
    assert child._folded._held is None
    with torch.no_grad():
        child(input)
    child(input).sum().backward()
    child.eval()(input).sum().backward()  # in eval mode, but with gradients
    with torch.no_grad():
        child(input)  # and with gradients that wait for a step
    assert child._folded._held is None
    assert len(folds) == 1
    child.zero_grad(), child.parent.zero_grad()
    with torch.no_grad():
        child(input)
    assert len(folds) == 2


def test_frozen_network_in_training_of_another(child, input):
    """No parameter asks for a gradient, the input does: folded, and right."""
    child.requires_grad_(False), child.parent.requires_grad_(False)
    input.requires_grad_()
    with torch.inference_mode():
        child(input.detach())  # what it leaves behind must be usable here
    (ours,) = torch.autograd.grad(child(input).square().sum(), input)
    (plain,) = torch.autograd.grad(plain_layers.child(child, input).square().sum(), input)
    torch.testing.assert_close(ours, plain)
    assert child._folded._held is not None


def test_parameters_made_in_inference_mode(input):
    """They count no writes, so nothing is kept."""
    with torch.inference_mode():
        child = randomise(ChildConv2d(nn.Conv2d(8, 12, 3).double())).eval()
        child(input)
        child.parent.weight.mul_(1.5)
        torch.testing.assert_close(child(input), plain_layers.child(child, input))
    assert child._folded._held is None


def test_value_lives_as_long_as_its_sources():
    cache, source, computed = FoldCache(), torch.zeros(3), []

    def compute():
        computed.append(1)
        return source + 1

    assert cache.get(compute, source) is cache.get(compute, source)
    source.add_(1)
    assert cache.get(compute, source).tolist() == [2, 2, 2]
    cache.get(compute, source.clone())
    assert len(computed) == 3
    cache.clear()
    cache.get(compute, source)
    assert len(computed) == 4
