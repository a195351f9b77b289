"""KernelDNA MobileNetV2: structure and size as published, the authors' names, one training step, bad arguments."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.models import count_macs, count_parameters, create_model, load_weights, to_published
from kerneldna_ops.models.mobilenet_v2 import kerneldna_mobilenet_v2, kerneldna_mobilenet_v2_050
from kerneldna_ops.nn import ChildConv2d
from support.plain_layers import randomise
from support.published_mobilenet_v2 import PublishedMobileNetV2

pytestmark = pytest.mark.usefixtures("threads")


def children(model):
    """Its children and parents by name."""
    names = {module: name for name, module in model.named_modules()}
    return {name: names[module.parent] for module, name in names.items() if isinstance(module, ChildConv2d)}


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(1)
    return randomise(PublishedMobileNetV2(0.5, num_classes=7)).double()


@pytest.fixture
def ours(published):
    model = kerneldna_mobilenet_v2_050(num_classes=7).double()
    model.load_state_dict(published.state_dict(), strict=True)
    return model


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [("kerneldna_mobilenet_v2", 3_136_840, "0.3009"), ("kerneldna_mobilenet_v2_050", 1_878_232, "0.0972")],
)
def test_size_is_as_published(name, parameters, gmacs):
    with torch.device("meta"):
        model = create_model(name)
        assert count_parameters(model) == parameters
        assert f"{count_macs(model, torch.empty(1, 3, 224, 224)) / 1e9:.4f}" == gmacs


def test_blocks_between_the_first_and_the_last_of_a_stage_are_children_of_the_last():
    with torch.device("meta"):
        families = children(kerneldna_mobilenet_v2())
    assert families == {
        f"features.{child}.{conv}": f"features.{parent}.{conv}"
        for child, parent in ((5, 6), (8, 10), (9, 10), (12, 13), (15, 16))
        for conv in ("conv.0.0", "conv.2")
    }


@pytest.mark.parametrize("width", [0.35, 0.5, 1.0, 1.4])
def test_what_is_not_shared_has_torchvisions_names_and_shapes(width):
    import torchvision

    with torch.device("meta"):
        static = torchvision.models.mobilenet_v2(width_mult=width).state_dict()
        model = kerneldna_mobilenet_v2(width_mult=width)
    own = {name: value.shape for name, value in model.state_dict().items() if ".adapter." not in name}
    borrowed = {f"{child}.weight" for child in children(model)}
    assert own == {name: value.shape for name, value in static.items() if name not in borrowed}


@pytest.mark.parametrize("training", [False, True])
def test_authors_checkpoint_gives_the_authors_logits(published, ours, training):
    images = torch.randn(3, 3, 33, 20, dtype=torch.float64)
    expected = copy.deepcopy(published).train(training)(images)
    torch.testing.assert_close(ours.train(training)(images), expected, rtol=1e-9, atol=1e-9)
    if not training:
        with torch.no_grad():  # folded
            torch.testing.assert_close(ours(images), expected, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_the_authors_network(published, ours):
    images = torch.randn(3, 3, 33, 20, dtype=torch.float64)
    published = copy.deepcopy(published)
    for model in (published, ours):
        model.zero_grad()
        F.cross_entropy(model.train()(images), torch.tensor([0, 3, 6])).backward()
    mine = copy.deepcopy(ours)
    with torch.no_grad():
        for parameter, gradient in zip(mine.parameters(), ours.parameters(), strict=True):
            parameter.copy_(gradient.grad)
    gradients = to_published(mine)
    for name, parameter in published.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-7, atol=1e-9, msg=name)


def test_state_goes_to_the_authors_names_and_back(published, ours):
    state = to_published(ours)
    assert state.keys() == published.state_dict().keys()
    for name, value in published.state_dict().items():
        assert torch.equal(state[name], value), name


def test_file_with_the_authors_names(published, tmp_path):
    torch.save({"state_dict": published.state_dict()}, tmp_path / "theirs.pth")
    model = kerneldna_mobilenet_v2(width_mult=0.5, num_classes=7, weights=tmp_path / "theirs.pth")
    expected = published.state_dict()["features.16.static_filter_attn1"][0].flatten().float()
    assert torch.equal(model.features[15].conv[0][0].adapter.filter_attention, expected)


def test_other_width_is_refused(published, tmp_path):
    torch.save(published.state_dict(), tmp_path / "half.pth")
    model = kerneldna_mobilenet_v2(num_classes=7)
    with pytest.raises(ValueError, match=r"half\.pth: kerneldna_mobilenet_v2: features\.0\.0\.weight has shape"):
        load_weights(model, tmp_path / "half.pth")


def test_dynamic_variant_has_filter_attention_of_each_sample():
    model = kerneldna_mobilenet_v2_050(num_classes=5, dynamic=True)
    adapters = [module.adapter for module in model.modules() if isinstance(module, ChildConv2d)]
    assert {(adapter.filter, adapter.spatial) for adapter in adapters} == {("dynamic", None)}
    assert all(not adapter.filter_head.weight.any() for adapter in adapters)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(adapter.filter_head.weight.grad.any() for adapter in adapters)
    with pytest.raises(ValueError, match="have not published this form of kerneldna_mobilenet_v2"):
        to_published(model)


def test_builder_arguments():
    model = kerneldna_mobilenet_v2(
        num_classes=3,
        in_channels=1,
        width_mult=0.25,
        round_nearest=4,
        inverted_residual_setting=[[1, 16, 1, 1], [2, 24, 4, 2]],
        norm_layer=lambda channels: nn.GroupNorm(2, channels),
        dropout=0.3,
    )
    assert children(model) == {
        f"features.{child}.{conv}": f"features.5.{conv}" for child in (3, 4) for conv in ("conv.0.0", "conv.2")
    }
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert model.classifier[0].p == 0.3
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"in_channels": 3.5}, r"in_channels must be a whole number of at least 1, got 3\.5"),
        ({"round_nearest": 0}, "round_nearest must be a whole number of at least 1, got 0"),
        ({"width_mult": 0}, "width_mult must be above 0, got 0"),
        ({"inverted_residual_setting": [[6, 24, 2]]}, "inverted_residual_setting must list, for each stage"),
        ({"inverted_residual_setting": []}, "inverted_residual_setting must list, for each stage"),
    ],
)
def test_bad_argument(argument, sentence):
    with pytest.raises(ValueError, match=f"^kerneldna_mobilenet_v2: {sentence}"):
        kerneldna_mobilenet_v2(**argument)


def test_half_width_refuses_a_width():
    with pytest.raises(TypeError, match="width_mult"):
        kerneldna_mobilenet_v2_050(width_mult=1.0)
