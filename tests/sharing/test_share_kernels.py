"""What share_kernels makes of a network: the same function at first, one kernel per group, a report, a mapping."""

import copy
import json

import pytest
import torch
from torch import nn

import kerneldna_ops
from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.sharing import share_kernels
from support.sharing_networks import PAIRS, Net, build, disturb, equal_weights, output, same, state_of

FORMS = [("static", "static"), ("dynamic", "dynamic"), ("static", None), (None, "dynamic")]


def test_is_found_at_the_top():
    assert kerneldna_ops.share_kernels is share_kernels


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_equal_weights_leave_the_output_as_it_was(net, images, form, mode):
    model = equal_weights(net, PAIRS).train(mode == "train")
    expected = output(copy.deepcopy(model), images)
    share_kernels(model, filter=form[0], spatial=form[1])
    torch.testing.assert_close(output(model, images), expected)


def test_other_weights_are_those_of_the_parent(net, images):
    expected = output(equal_weights(copy.deepcopy(net), PAIRS), images)
    assert not output(net, images).allclose(expected)
    share_kernels(net)
    torch.testing.assert_close(output(net, images), expected)


class Branches(nn.Module):
    """The same kernel under other arguments."""

    def __init__(self, **factory):
        super().__init__()
        self.plain = nn.Conv2d(4, 4, 3, bias=False, **factory)
        self.other = nn.Conv2d(4, 4, 3, (2, 1), (3, 2), 2, padding_mode="circular", **factory)
        self.same = nn.Conv2d(4, 4, 3, padding="same", **factory)

    def forward(self, x):
        return [layer(x) for layer in (self.plain, self.other, self.same)]


def test_a_child_keeps_what_the_layer_was():
    model = equal_weights(Branches(dtype=torch.float64), {"plain": ["other", "same"]})
    model.other.eval()
    model.same.bias.requires_grad_(False)
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    expected, biases = model(x), [model.other.bias, model.same.bias]
    sharing = share_kernels(model, {"plain": ["other", "same"]})
    for got, wanted in zip(model(x), expected, strict=True):
        torch.testing.assert_close(got, wanted)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not model.other.training
    assert not model.other.adapter.se.bn.training
    assert model.same.training
    assert model.other.bias.requires_grad
    assert not model.same.bias.requires_grad
    # Training the child must not train the layer that undo puts back.
    assert all(child.bias is not bias for child, bias in zip(sharing.children.values(), biases, strict=True))


def test_device_is_kept():
    model = Branches(device="meta")
    share_kernels(model, {"plain": ["other", "same"]})
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_optimizer_and_gradients_see_a_shared_weight_once(net, images):
    sharing = share_kernels(net.train())
    disturb(sharing)
    weight = net.blocks[0].conv2.weight
    assert sum(p is weight for p in net.parameters()) == 1
    assert [
        name for name in net.state_dict() if "blocks.0" in name and name.endswith(("conv1.weight", "conv2.weight"))
    ] == ["blocks.0.conv2.weight"]
    twin = copy.deepcopy(net)
    net(images).square().sum().backward()
    # The gradient is that of the parent's use and that of the child's, each taken with the other held fast.
    parts = torch.zeros_like(weight)
    for used in ("parent", "child"):
        model = copy.deepcopy(twin)
        block = model.blocks[0]
        kernel, block.conv1.parent = block.conv2, copy.deepcopy(block.conv2).requires_grad_(False)
        if used == "child":
            kernel = block.conv1.parent.requires_grad_(True)
            block.conv2.requires_grad_(False)
        model(images).square().sum().backward()
        parts += kernel.weight.grad
    torch.testing.assert_close(weight.grad, parts)


def test_report(net):
    static = sum(p.numel() for p in net.parameters())
    report = share_kernels(net).report
    assert report.parameters_before == static
    assert report.parameters_after == sum(p.numel() for p in net.parameters())
    layers = {layer.name: layer for layer in report.layers}
    assert list(layers) == ["stem", *(f"blocks.{n}.conv{i}" for n in range(3) for i in (1, 2))]
    child, parent, own = layers["blocks.1.conv1"], layers["blocks.1.conv2"], layers["stem"]
    assert (child.role, child.parent, child.shape) == ("child", "blocks.1.conv2", (8, 8, 3, 3))
    # fc1 8 * 2, its norm 2 * 2, fc2 2 * 8 + 8, filters 8, taps 9
    assert (child.before, child.after) == (8 * 8 * 9, 16 + 4 + 24 + 8 + 9)
    assert (parent.role, parent.weight_of, parent.before, parent.after) == ("parent", parent.name, 584, 584)
    assert (own.role, own.before, own.after) == ("own", 224, 224)
    assert own.reason == "has no other layer of its shape, stride and requires_grad in its stage"
    saved = sum(layer.before - layer.after for layer in report.layers)
    assert report.parameters_before - report.parameters_after == saved == 3 * (576 - 61)


def test_report_prints_as_a_table(net):
    report = share_kernels(net).report
    lines = str(report).splitlines()[: -len(report.notes)]
    assert len(lines) == 1 + 7 + 1
    assert lines[0].split() == ["layer", "shape", "role", "parent,", "or", "why", "not", "shared", "before", "after"]
    assert lines[2].split() == ["blocks.0.conv1", "8x8x3x3", "child", "of", "blocks.0.conv2", "576", "61"]
    assert lines[-1].split()[-2:] == ["3,861", "2,316"]
    assert len({len(line) for line in lines}) == 1


def test_nothing_to_share_is_said_by_the_report():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    before = state_of(model)
    sharing = share_kernels(model, weight="mean")
    assert not sharing.children
    assert sharing.report.parameters_before == sharing.report.parameters_after
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_mapping_and_state_dict_make_the_same_network_again(net, images, form):
    sharing = share_kernels(net, weight="mean", filter=form[0], spatial=form[1], reduction=2)
    disturb(sharing)
    mapping = json.loads(json.dumps(sharing.mapping))
    fresh = Net().eval()
    again = share_kernels(fresh, **mapping)
    assert again.mapping == sharing.mapping
    fresh.load_state_dict(net.state_dict())
    assert output(fresh, images).equal(output(net, images))


def test_mapping_is_not_tied_to_what_was_given(net):
    groups = {"blocks.0.conv2": ["blocks.0.conv1"]}
    sharing = share_kernels(net, groups)
    groups["blocks.0.conv2"].append("blocks.1.conv1")
    assert sharing.mapping["groups"] == {"blocks.0.conv2": ["blocks.0.conv1"]}


def test_reduction_counts_from_the_narrow_side():
    """4 gives the published MobileNetV2's squeeze-and-excitations: 24 of the wide side in front of a projection."""
    model = nn.Sequential(nn.Conv2d(48, 8, 1), nn.Conv2d(48, 8, 1), nn.Conv2d(8, 48, 1), nn.Conv2d(8, 48, 1))
    share_kernels(model, {"1": ["0"], "3": ["2"]})
    assert [model[i].adapter.se.fc1.weight.shape for i in (0, 2)] == [(2, 48), (2, 8)]
    assert model[0].adapter.spatial is None


def test_freeze_parents_trains_adapters_alone(net, images):
    sharing = share_kernels(net.train())
    sharing.freeze_parents()
    kernels = {name: parent.weight.clone() for name, parent in sharing.parents.items()}
    before = state_of(net)
    optimizer = torch.optim.SGD(sharing.adapter_parameters(), 0.1)
    for _ in range(2):  # fc1 has no gradient while fc2 is zero
        net(images).square().sum().backward()
        assert all(parent.weight.grad is None and parent.bias.grad is None for parent in sharing.parents.values())
        optimizer.step()
    assert all(parent.weight.equal(kernels[name]) for name, parent in sharing.parents.items())
    parameters = {name for name, _ in net.named_parameters()}
    changed = {name for name in parameters if not before[name].equal(net.state_dict()[name])}
    assert changed == {name for name in parameters if ".adapter." in name}
    sharing.undo()
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_model_learns_on(net, images):
    sharing = share_kernels(net.train(), filter="dynamic", spatial="dynamic")
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    before = output(copy.deepcopy(net), images).square().mean()
    for _ in range(3):
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()
    assert output(net, images).square().mean() < before
    assert all(isinstance(child, ChildConv2d) for child in sharing.children.values())


def test_build_helper_makes_different_weights():
    """Else the tests above would show nothing."""
    net = build()
    assert not net.blocks[0].conv1.weight.equal(net.blocks[0].conv2.weight)
