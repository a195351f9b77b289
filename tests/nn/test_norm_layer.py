"""The norm inside the gate: another one, or none, is what is called by hand, and then one sample trains."""

import copy
import json

import pytest
import torch
from torch import nn

from kerneldna_ops import share_kernels
from kerneldna_ops.nn import Adapter, ChildConv2d, SqueezeExcite
from support import plain_layers
from support.plain_layers import randomise

pytestmark = pytest.mark.usefixtures("threads")


def group_norm(features):
    return nn.GroupNorm(1, features)


NORMS = {"LayerNorm": nn.LayerNorm, "GroupNorm": group_norm, "none": None, "BatchNorm": nn.BatchNorm1d}
NORM = pytest.mark.parametrize("norm_layer", NORMS.values(), ids=NORMS)


def double(layer):
    return randomise(layer.double())


def by_hand(se, input):
    return torch.sigmoid(se.fc2(torch.relu(se.bn(se.fc1(input.mean((2, 3)))))))


@NORM
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gate(norm_layer, mode):
    samples = 4 if norm_layer is nn.BatchNorm1d else 1
    se = double(SqueezeExcite(12, norm_layer=norm_layer)).train(mode == "train")
    input = torch.randn(samples, 12, 5, 4, dtype=torch.float64, requires_grad=True)
    leaves = [input, *se.parameters()]
    gate, expected = se(input), by_hand(copy.deepcopy(se), input)
    torch.testing.assert_close(gate, expected)
    ours = torch.autograd.grad(gate.square().sum(), leaves)
    plain = torch.autograd.grad(by_hand(se, input).square().sum(), leaves)
    torch.testing.assert_close(ours, plain)
    with torch.no_grad():
        torch.testing.assert_close(se(input), expected)


@NORM
@pytest.mark.parametrize("attention", ["static", "dynamic"])
def test_child_on_one_sample(norm_layer, attention):
    child = ChildConv2d(nn.Conv2d(16, 16, 3, padding=1), filter=attention, spatial=attention, norm_layer=norm_layer)
    child = double(child).train(norm_layer is not nn.BatchNorm1d)
    child.parent.double()
    input = torch.randn(1, 16, 40, 40, dtype=torch.float64, requires_grad=True)
    leaves = [input, child.parent.weight, *child.parameters()]
    output, expected = child(input), plain_layers.child(child, input)
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(output)
    torch.testing.assert_close(*(torch.autograd.grad(y, leaves, grad) for y in (output, expected)))


def test_norm_stands_where_batch_norm_does():
    """Its place in the state_dict, its dtype and device."""
    names = [name for name in SqueezeExcite(12, norm_layer=nn.LayerNorm).state_dict() if "bn" in name]
    assert names == ["bn.weight", "bn.bias"]
    assert list(SqueezeExcite(12, norm_layer=None).state_dict()) == ["fc1.weight", "fc2.weight", "fc2.bias"]
    child = ChildConv2d(nn.Conv2d(8, 8, 3, dtype=torch.bfloat16, device="meta"), norm_layer=group_norm)
    assert {(p.dtype, p.device.type) for p in child.parameters()} == {(torch.bfloat16, "meta")}
    with torch.device("meta"):
        assert SqueezeExcite(12, device="cpu", norm_layer=nn.LayerNorm).bn.weight.device.type == "cpu"
    state = SqueezeExcite(12, norm_layer=nn.SyncBatchNorm).state_dict()
    SqueezeExcite(12).load_state_dict(state)


def test_the_refusal_of_one_sample_names_the_way_out():
    sentence = (
        r"^SqueezeExcite: training needs at least 2 samples, .*norm_layer=nn.LayerNorm or None.* \[1, 16, 5, 5\]$"
    )
    child = ChildConv2d(nn.Conv2d(16, 16, 3))
    for with_grad in (True, False):
        with torch.set_grad_enabled(with_grad), pytest.raises(ValueError, match=sentence):
            child(torch.zeros(1, 16, 5, 5))
    assert child.adapter.se.bn.num_batches_tracked == 0


BAD = [
    ("layer", r"must be called with a number of features, or None, got 'layer'"),
    (lambda features: features, r"must give a torch.nn.Module, got int"),
]


@pytest.mark.parametrize(("norm_layer", "sentence"), BAD, ids=["name", "no module"])
def test_what_is_no_norm(norm_layer, sentence):
    for kind in (SqueezeExcite, lambda channels, **options: Adapter(channels, 8, 3, **options)):
        with pytest.raises(TypeError, match=f"^SqueezeExcite: norm_layer {sentence}$"):
            kind(8, norm_layer=norm_layer)


def test_shared_kernels():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    groups = {"1": ["0"]}
    sharing = share_kernels(model, groups, norm_layer=nn.LayerNorm)
    assert type(sharing.children["0"].adapter.se.bn) is nn.LayerNorm
    model.train()(torch.randn(1, 8, 5, 5)).sum().backward()

    fresh = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    share_kernels(fresh, **json.loads(json.dumps(sharing.mapping)), norm_layer=nn.LayerNorm)
    fresh.load_state_dict(model.state_dict())
