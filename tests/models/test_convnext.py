"""KernelDNA ConvNeXt-Tiny: the derived structure, against torchvision's ConvNeXt and against the formula of a child."""

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.models import count_macs, count_parameters
from kerneldna_ops.models.convnext import ConvNeXt, kerneldna_convnext_tiny
from kerneldna_ops.nn import ChildConv2d, SqueezeExcite
from support.plain_layers import child as plain_child
from support.plain_layers import randomise

pytestmark = pytest.mark.usefixtures("threads")

STAGES = ((8, 3), (12, 3), (16, 4), (24, 3))


def small(stochastic_depth_prob=0.0, dynamic=False):
    return ConvNeXt(STAGES, 5, 3, stochastic_depth_prob, 1e-6, None, dynamic).double()


def torchvisions(model, stochastic_depth_prob):
    """torchvision's ConvNeXt with the kernels of `model`, those of the children with their filter attention in."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [width for width, _ in STAGES]
    settings = [
        CNBlockConfig(width, following, blocks)
        for (width, blocks), following in zip(STAGES, [*widths[1:], None], strict=True)
    ]
    static = ConvNeXt(settings, stochastic_depth_prob, num_classes=5).double()
    state = {name: value for name, value in model.state_dict().items() if name in static.state_dict()}
    for name, block in model.named_modules():
        if type(block).__name__ != "Block":
            continue
        state[f"{name}.layer_scale"] = block.layer_scale
        for ours, theirs in (("dwconv", 0), ("norm", 2), ("pwconv1", 3), ("pwconv2", 5)):
            layer = getattr(block, ours)
            state[f"{name}.block.{theirs}.bias"] = layer.bias
            if isinstance(layer, ChildConv2d):
                weight = layer.parent.weight * (1 + layer.adapter.filter_attention)[:, None, None, None]
            else:
                weight = layer.weight
            state[f"{name}.block.{theirs}.weight"] = weight.flatten(1) if ours.startswith("pw") else weight
    static.load_state_dict(state)
    return static


def test_size():
    with torch.device("meta"):
        model = kerneldna_convnext_tiny()
        assert count_parameters(model) == 18_343_096
        assert f"{count_macs(model, torch.empty(1, 3, 224, 224)) / 1e9:.3f}" == "4.459"


def test_blocks_between_the_first_and_the_last_of_a_stage_are_children_of_the_last():
    with torch.device("meta"):
        model = kerneldna_convnext_tiny()
    names = {module: name for name, module in model.named_modules()}
    children = {name: module for module, name in names.items() if isinstance(module, ChildConv2d)}
    assert {name: names[child.parent] for name, child in children.items()} == {
        f"features.{stage}.{block}.{layer}": f"features.{stage}.{last}.{layer}"
        for stage, last in ((1, 2), (3, 2), (5, 8), (7, 2))
        for block in range(1, last)
        for layer in ("pwconv1", "pwconv2")
    }
    hidden = {name: child.adapter.se.fc1.out_features for name, child in children.items()}
    assert hidden["features.5.4.pwconv1"] == 384 // 4
    assert hidden["features.5.4.pwconv2"] == 4 * 384 // 24


@pytest.mark.parametrize("stochastic_depth_prob", [None, 0.5])
def test_without_channel_attention_it_is_torchvisions_convnext(stochastic_depth_prob):
    """In training with stochastic depth too: the same samples pass by the same blocks."""
    model = randomise(small(stochastic_depth_prob or 0.0))
    for module in model.modules():
        if isinstance(module, ChildConv2d):
            torch.nn.init.zeros_(module.adapter.se.fc2.weight)
            torch.nn.init.constant_(module.adapter.se.fc2.bias, 50)  # whose sigmoid is 1
    static = torchvisions(model, stochastic_depth_prob or 0.0)
    images = torch.randn(4, 3, 64, 37, dtype=torch.float64)
    outputs = []
    for network in (model, static):
        network.train(stochastic_depth_prob is not None)
        torch.manual_seed(3)
        outputs.append(network(images))
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dynamic", [False, True])
def test_child_block_is_the_formula(dynamic):
    block = randomise(small(dynamic=dynamic)).features[1][1].eval()
    x = torch.randn(3, 8, 6, 5, dtype=torch.float64)
    y = F.layer_norm(block.dwconv(x).movedim(1, -1), (8,), block.norm.weight, block.norm.bias, 1e-6).movedim(-1, 1)
    y = F.gelu(plain_child(block.pwconv1, y))
    expected = x + block.layer_scale * plain_child(block.pwconv2, y)
    torch.testing.assert_close(block(x), expected)


def test_everything_is_trained():
    model = randomise(small(dynamic=True)).train()
    for module in model.modules():
        if isinstance(module, SqueezeExcite):
            module.bn.reset_parameters()  # so that no feature is zero for all samples
    model(torch.randn(3, 3, 64, 64, dtype=torch.float64)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_start():
    """As ConvNeXt: small weights, no bias; heads of dynamic attention at zero."""
    model = small(dynamic=True)
    for name, parameter in model.named_parameters():
        if "filter_head" in name or name.endswith("bias"):
            assert not parameter.any(), name
        elif "pwconv" in name and "bn" not in name:
            assert 0 < parameter.abs().mean() < 0.02, name


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"stochastic_depth_prob": 1.5}, r"stochastic_depth_prob must be between 0 and 1, got 1\.5"),
    ],
)
def test_bad_argument(argument, sentence):
    with pytest.raises(ValueError, match=f"^kerneldna_convnext_tiny: {sentence}"):
        kerneldna_convnext_tiny(**argument)
