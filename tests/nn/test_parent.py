"""A child when a tool changes or copies its parent: the right value on the first call, or one sentence."""

import copy
import re
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from kerneldna_ops.nn import ChildConv2d

pytestmark = [pytest.mark.usefixtures("threads"), pytest.mark.filterwarnings("ignore::FutureWarning")]


class Family(nn.Module):
    """A child that runs before its parent and one that runs behind it, with norms in between."""

    def __init__(self, **arguments):
        super().__init__()
        parent = nn.Conv2d(6, 6, 3, padding=1, bias=False, **arguments)
        self.first = ChildConv2d(parent, norm_layer=None)
        self.parent = parent
        self.bn = nn.BatchNorm2d(6)
        self.last = ChildConv2d(parent, bias=True, filter="dynamic", norm_layer=None)
        self.double()

    def forward(self, x):
        return self.last(F.relu(self.bn(self.parent(F.relu(self.first(x))))))


@pytest.fixture
def family():
    return Family()


@pytest.fixture
def input():
    return torch.randn(4, 6, 7, 5, dtype=torch.float64)


def with_weight(family, weight):
    """A copy of the family whose parent has this weight and nothing that changes it."""
    twin = Family().train(family.training)
    own = {key: value for key, value in family.state_dict().items() if key in twin.state_dict()}
    twin.load_state_dict({**own, "parent.weight": weight.detach()})
    return twin


def pruned(parent):
    prune.l1_unstructured(parent, "weight", 0.5)
    return lambda: parent.weight_orig * parent.weight_mask


def pruned_twice(parent):
    prune.l1_unstructured(parent, "weight", 0.3)
    return pruned_again(parent)


def pruned_again(parent):
    prune.random_unstructured(parent, "weight", 0.3)
    return lambda: parent.weight_orig * parent.weight_mask


def weight_normed(parent):
    weight_norm(parent)
    return lambda: parent.weight_g * parent.weight_v / parent.weight_v.square().sum((1, 2, 3), keepdim=True).sqrt()


def spectrally_normed(parent):
    spectral_norm(parent)
    return lambda: parent.weight_orig / (parent.weight_u @ parent.weight_orig.flatten(1) @ parent.weight_v)


TOOLS = [pruned, pruned_twice, weight_normed, spectrally_normed]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("alone", [False, True])
def test_older_tools_on_the_first_call(family, input, tool, alone):
    weight = tool(family.eval().parent)
    with torch.no_grad():
        for parameter in family.parent.parameters():  # as load_state_dict does
            parameter.mul_(-1.5).add_(0.01)
        expected = with_weight(family, weight())
        layer, plain = (family.first, expected.first) if alone else (family, expected)
        torch.testing.assert_close(layer(input), plain(input))
        torch.testing.assert_close(layer(input), plain(input))


@pytest.mark.parametrize("tool", TOOLS)
def test_older_tools_in_training(family, input, tool):
    """The weight that the parent left behind belongs to the step before, whose graph is gone."""
    weight = tool(family.parent)
    optimizer = torch.optim.SGD(family.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        family(input).square().sum().backward()
        optimizer.step()
    made = weight()
    plain = with_weight(family, made)
    family.zero_grad()
    family.eval()(input).square().sum().backward()
    plain.eval()(input).square().sum().backward()
    parameters = [parameter for parameter in family.parent.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(made, parameters, plain.parent.weight.grad)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_older_tools_under_compile(family, input):
    prune.l1_unstructured(family.eval().parent, "weight", 0.5)
    with torch.no_grad():
        expected = family.first(input)
        torch.testing.assert_close(torch.compile(family.first, backend="eager")(input), expected)


class EqualLR:
    """A tool of that kind that nobody here knows."""

    def __call__(self, module, inputs):
        module.weight = module.weight_orig * 2


def test_another_tool_of_that_kind_is_refused(family, input):
    parent = family.parent
    parent.register_parameter("weight_orig", nn.Parameter(parent.weight.detach()))
    del parent._parameters["weight"]
    parent.weight = parent.weight_orig * 2
    parent.register_forward_pre_hook(EqualLR())
    sentence = (
        "ChildConv2d: the parent's weight is no parameter but made by a hook (EqualLR) when the parent runs, which a"
        " child may do before: use torch.nn.utils.parametrize"
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(sentence)}$"):
        family(input)


def test_hooks_that_make_no_weight_are_none_of_a_childs_business(family, input):
    expected = family.eval()(input)
    family.parent.register_forward_pre_hook(lambda module, inputs: None)
    torch.testing.assert_close(family(input), expected)


def fold_into(conv, norm):
    """In place, as mmcv's fuse_conv_bn and YOLO's fuse_conv_and_bn do."""
    folded = nn.utils.fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight, conv.bias = folded


@pytest.mark.parametrize("grad", [False, True])
def test_a_norm_folded_into_the_parent_is_noticed(family, input, grad):
    family.eval()(input)
    fold_into(family.parent, family.bn)
    sentence = (
        "ChildConv2d: the parent has got a bias since, as by a BatchNorm that was folded into its weight, which its"
        " children borrow: fold by kerneldna_ops.materialize, or set child.parent again if it is right so"
    )
    for call in (family, family.first, family.last, copy.deepcopy(family)):
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=f"^{re.escape(sentence)}$"):
            call(input)
    family.first.parent = family.parent
    assert family.first(input).isfinite().all()


def test_a_child_has_no_weight_and_says_what_to_do(family):
    assert not hasattr(family.first, "weight")
    sentence = (
        "ChildConv2d: has no weight of its own, for it modulates that of child.parent;"
        " kerneldna_ops.materialize(model.eval()) makes layers with weights and folds norms into them"
    )
    with pytest.raises(AttributeError, match=f"^{re.escape(sentence)}$"):
        fold_into(family.first, family.bn)
    with pytest.raises(AttributeError, match="object has no attribute 'wait'"):
        family.first.wait  # noqa: B018


@pytest.fixture
def replicate(monkeypatch):
    """torch.nn.parallel.replicate onto the CPU twice: what copies tensors to GPUs copies them here."""
    module = import_module("torch.nn.parallel.replicate")

    def broadcast(tensors, devices, detach=False):
        return [[tensor.detach().clone() if detach else tensor.clone() for tensor in tensors] for _ in devices]

    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", broadcast)
    monkeypatch.setattr(module, "_get_device_index", lambda device, optional: device)
    return module.replicate


def test_copies_of_data_parallel_borrow_from_their_own_parents(family, input, replicate):
    family.bn.eval()  # the copies have a batch each
    family(input).square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in family.named_parameters()}
    family.zero_grad()
    state = {name: list(module._modules) for name, module in family.named_modules()}

    copies = replicate(family, [0, 1])
    for twin in copies:
        assert twin.parent is not family.parent
        assert twin.first.parent is twin.parent
        assert twin.last.parent is twin.parent
        assert sum(module is twin.parent for module in twin.modules()) == 1
    sum(twin(part).square().sum() for twin, part in zip(copies, input.chunk(2), strict=True)).backward()
    for name, parameter in family.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
    with torch.no_grad():
        (twin,) = replicate(family.eval(), [0], detach=True)
        torch.testing.assert_close(twin(input), family(input))

    assert {name: list(module._modules) for name, module in family.named_modules()} == state
    assert family.first.parent is family.last.parent is family.parent


def test_copies_of_data_parallel_after_pruning(family, input, replicate):
    weight = pruned(family.parent)
    with torch.no_grad():
        family.parent.weight_orig.mul_(2)
        expected = with_weight(family, weight()).eval()(input)
        for twin in replicate(family.eval(), [0, 1], detach=True):
            torch.testing.assert_close(twin(input), expected)


def test_data_parallel_over_a_child_without_its_parent(family, input, replicate):
    parts = dict(family.first._modules)
    with pytest.raises(KeyError, match=r"nn\.DataParallel: a child must be wrapped together with its parent"):
        replicate(family.first, [0])
    assert family.first._modules == parts
    assert family(input).isfinite().all()
