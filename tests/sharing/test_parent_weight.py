"""What a parent and its children start from: the parent's weight, the mean, or the weight with the lowest loss."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.sharing import share_kernels
from support.sharing_networks import PAIRS, build, output, same, state_of


def weights_of(net, parent):
    return [net.get_submodule(name).weight.detach().clone() for name in (parent, *PAIRS[parent])]


def test_parent(net):
    own = {parent: weights_of(net, parent)[0] for parent in PAIRS}
    sharing = share_kernels(net)
    assert all(sharing.parents[name].weight.equal(weight) for name, weight in own.items())


def test_mean(net, dtype):
    net.to(dtype)
    expected = {parent: torch.stack(weights_of(net, parent)).double().mean(0).to(dtype) for parent in PAIRS}
    parameters = {name: net.get_submodule(name).weight for name in PAIRS}
    sharing = share_kernels(net, weight="mean")
    for name, weight in expected.items():
        assert sharing.parents[name].weight is parameters[name]
        torch.testing.assert_close(sharing.parents[name].weight.detach(), weight)
        assert sharing.children[PAIRS[name][0]].parent.weight is parameters[name]
    parents = [layer for layer in sharing.report.layers if layer.role == "parent"]
    assert {(layer.weight_of, layer.remark()) for layer in parents} == {("mean", "the mean weight of the group")}


def expected_choice(net, batches, loss):
    """The same search, over copies of the network and without children: all layers of a group get the weight."""
    model, chosen = copy.deepcopy(net), {}
    for parent, children in PAIRS.items():  # children begin with the parent's weight
        for child in children:
            model.get_submodule(child).weight.data.copy_(model.get_submodule(parent).weight)
    for parent, children in PAIRS.items():
        own = weights_of(net, parent)
        candidates = dict(zip([parent, *children, "mean"], [*own, torch.stack(own).mean(0)], strict=True))
        losses = {}
        for name, weight in candidates.items():
            for layer in (parent, *children):
                model.get_submodule(layer).weight.data.copy_(weight)
            losses[name] = sum(float(loss(model, batch)) for batch in batches)
        chosen[parent] = min(losses, key=losses.get)
        for layer in (parent, *children):
            model.get_submodule(layer).weight.data.copy_(candidates[chosen[parent]])
    return chosen, model


@pytest.mark.parametrize("labelled", [False, True])
def test_measured(labelled):
    found = set()
    for seed in range(3):
        torch.manual_seed(seed)
        net, batches = build(), [torch.randn(8, 3, 12, 12) for _ in range(2)]
        if labelled:
            batches = [(images, torch.randint(5, (8,))) for images in batches]
        before = copy.deepcopy(net)

        def loss(model, batch, before=before):
            with torch.no_grad():
                if labelled:
                    return F.cross_entropy(model(batch[0]), batch[1])
                return F.mse_loss(model(batch), before(batch))

        chosen, model = expected_choice(net, batches, loss)
        net.train()
        sharing = share_kernels(net, weight="measured", batches=iter(batches), loss=loss if labelled else None)
        assert {layer.name: layer.weight_of for layer in sharing.report.layers if layer.role == "parent"} == chosen
        assert all(module.training for module in net.modules())
        images = torch.randn(4, 3, 12, 12)
        torch.testing.assert_close(output(net.eval(), images), output(model, images))
        found |= {name if name in ("mean", parent) else "child" for parent, name in chosen.items()}
        sharing.undo()
        assert same(net.state_dict(), before.state_dict())
    assert len(found) > 1  # else the search would not show


def test_measuring_leaves_no_trace(net, images):
    statistics = {name: value.clone() for name, value in net.named_buffers()}
    share_kernels(net.train(), weight="measured", batches=[images])
    assert all(value.equal(statistics[name]) for name, value in net.named_buffers() if name in statistics)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(net, images, bad):
    before = state_of(net)
    with pytest.raises(
        ValueError, match=r"^share_kernels: the measured loss is not finite with any of the weights of bl"
    ):
        share_kernels(net, weight="measured", batches=[images], loss=lambda model, batch: bad)
    assert same(net.state_dict(), before)
    # One that is finite is enough.
    losses = iter([bad, bad, 1.0] * 3)
    sharing = share_kernels(net, weight="measured", batches=[images], loss=lambda model, batch: next(losses))
    assert {layer.weight_of for layer in sharing.report.layers if layer.role == "parent"} == {"mean"}
    assert math.isinf(next(losses, math.inf))


def test_loss_that_raises_leaves_the_model_as_it_was(net, images):
    before, modules = state_of(net), list(net.named_modules())

    def loss(model, batch):
        raise KeyError("labels")

    with pytest.raises(KeyError, match="labels"):
        share_kernels(net, weight="measured", batches=[images], loss=loss)
    assert same(net.state_dict(), before)
    assert list(net.named_modules()) == modules


def test_output_that_is_no_tensor_needs_a_loss(images):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build()

        def forward(self, x):
            return {"scores": self.net(x)}

    sentence = r"needs loss=function\(model, batch\) where the output is no tensor, got a dict$"
    with pytest.raises(TypeError, match=sentence):
        share_kernels(Pair(), weight="measured", batches=[images])
