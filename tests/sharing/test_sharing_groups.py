"""Which layers become whose children when nobody says so."""

import copy

import pytest
import torch
from torch import nn

from kerneldna_ops.analysis import cka, suggest_groups
from kerneldna_ops.sharing import propose_groups, share_kernels
from support.sharing_networks import PAIRS, Net, same, state_of


def test_published_pattern():
    """The five equal layers of a stage of the published ResNet-18: child, child, parent, child, parent."""
    layers = [nn.Conv2d(16, 16, 3) for _ in range(5)]
    assert propose_groups(nn.Sequential(*layers)) == {"2": ["0", "1"], "4": ["3"]}
    assert propose_groups(nn.Sequential(*layers[:3])) == {"2": ["0", "1"]}
    assert propose_groups(nn.Sequential(*layers[:1])) == {}


def test_a_proposal_is_what_is_shared_and_changes_nothing():
    net = Net()
    before = state_of(net)
    assert propose_groups(net) == PAIRS
    assert same(net.state_dict(), before)
    assert share_kernels(net).mapping["groups"] == PAIRS


def layers(**named):
    model = nn.Module()
    for name, layer in named.items():
        model.add_module(name, layer)
    return model


def test_stages_are_told_by_name_shape_stride_and_dilation():
    def conv(**arguments):
        return nn.Conv2d(16, 16, 3, **arguments)

    def stage():
        return nn.Sequential(*(layers(conv1=conv(), other=conv(), conv2=conv(stride=2)) for _ in range(3)))

    model = layers(layer1=stage(), layer2=stage(), dilated=conv(dilation=2), wide=nn.Conv2d(16, 17, 3))
    groups = {
        f"layer{n}.2.{name}": [f"layer{n}.0.{name}", f"layer{n}.1.{name}"]
        for n in (1, 2)
        for name in ("conv1", "other", "conv2")
    }
    assert propose_groups(model) == groups
    # Without numbers between dots, all of the model is one stage,
    assert propose_groups(layers(conv1=conv(), conv2=conv())) == {"conv2": ["conv1"]}
    block = {f"denselayer{n}": layers(conv=conv()) for n in (1, 2, 3)}
    # unless numbered parts lie in numbered parts, as in DenseNet.
    model = layers(denseblock1=layers(**block), denseblock2=layers(**copy.deepcopy(block)))
    assert propose_groups(model) == {
        f"denseblock{n}.denselayer3.conv": [f"denseblock{n}.denselayer1.conv", f"denseblock{n}.denselayer2.conv"]
        for n in (1, 2)
    }


def test_frozen_and_trained_layers_share_nothing():
    """A trained kernel would not be trained any more under a frozen parent, nor a frozen one stay as it is."""
    model = nn.Sequential(*(nn.Conv2d(16, 16, 3) for _ in range(5)))
    for layer in (model[0], model[3]):
        layer.weight.requires_grad_(False)
    with pytest.raises(
        ValueError,
        match=r"^share_kernels: layer '0' \(\[16, 16, 3, 3\], groups=1, float32, cpu, frozen\) cannot be a child of '1'"
        r" \(\[16, 16, 3, 3\], groups=1, float32, cpu\): their kernels differ$",
    ):
        share_kernels(model, {"1": ["0"]})
    sharing = share_kernels(model)
    assert sharing.mapping["groups"] == {"3": ["0"], "4": ["1", "2"]}
    assert [layer.remark() for layer in sharing.report.layers] == [
        "of 3, frozen",
        "of 4",
        "of 4",
        "its own weight, frozen",
        "its own weight",
    ]
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3).requires_grad_(False))
    own = share_kernels(model).report.layers[1]
    assert own.remark() == "has no other layer of its shape, stride and requires_grad in its stage, frozen"


def test_depthwise_layers_are_shared_only_if_named():
    model = nn.Sequential(*(nn.Conv2d(64, 64, 9, groups=64) for _ in range(2)))
    assert propose_groups(model) == {}
    assert share_kernels(model).report.layers[0].reason == "is depthwise: shared only if named"
    assert share_kernels(model, {"0": ["1"]}).children.keys() == {"1"}


def test_grouped_layers_are_shared():
    model = nn.Sequential(*(nn.Conv2d(64, 64, 3, groups=4) for _ in range(2)))
    assert propose_groups(model) == {"1": ["0"]}


def test_layers_whose_adapter_would_cost_what_it_saves_are_left_alone():
    model = nn.Sequential(*(nn.Conv2d(32, 4, 1, bias=False) for _ in range(2)))
    report = share_kernels(model, reduction=1).report
    # fc1 32 * 4, its norm 4 * 2, fc2 4 * 32 + 32, filters 4
    assert report.layers[0].reason == "would save 128 parameters for an adapter of 300"
    assert report.parameters_after == 256
    assert share_kernels(model, {"0": ["1"]}, reduction=1).report.parameters_after == 128 + 300


class Chain(nn.Module):
    """Three layers in a row of which the first two compute the same features."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(3))
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        with torch.no_grad():
            self.b.weight.copy_(self.a.weight)

    def forward(self, x):
        return self.depthwise(self.a(x)) + self.b(x) + self.c(torch.sin(9 * x))


def test_groups_by_cka():
    model, batches = Chain(), [torch.randn(8, 6, 5, 5) for _ in range(3)]
    expected = suggest_groups(cka(model, batches, ["a", "b", "c"]), model)
    assert expected == {"a": ["b"]}
    assert propose_groups(model, "cka", batches=batches) == expected
    sharing = share_kernels(model, "cka", batches=iter(batches))
    assert sharing.mapping["groups"] == expected
    reasons = {layer.name: layer.reason for layer in sharing.report.layers}
    assert reasons["c"] == "is not similar enough to a layer of its shape"
    assert reasons["depthwise"] == "is depthwise: shared only if named"


def test_cka_of_layers_that_are_not_understood():
    model = Chain()
    model.b.register_forward_hook(lambda *args: None)
    assert propose_groups(model, "cka", batches=[torch.randn(8, 6, 5, 5)]) == {}


def test_cka_and_measured_weights_from_one_iterator():
    model = Chain()
    batches = (torch.randn(8, 6, 5, 5) for _ in range(2))
    assert share_kernels(model, "cka", batches=batches, weight="measured").mapping["groups"] == {"a": ["b"]}


def test_cka_of_a_model_with_nothing_to_compare():
    assert propose_groups(nn.Sequential(nn.Conv2d(3, 4, 3)), "cka", batches=[torch.randn(4, 3, 5, 5)]) == {}


@pytest.mark.parametrize("by", ["shape", None, {}])
def test_bad_source_of_a_proposal(by):
    with pytest.raises(ValueError, match=r"^propose_groups: by must be 'position' or 'cka', got "):
        propose_groups(Net(), by)


def test_batches_that_nobody_reads():
    with pytest.raises(ValueError, match=r"^propose_groups: batches are for by='cka' only$"):
        propose_groups(Net(), batches=[torch.zeros(4, 3, 8, 8)])
