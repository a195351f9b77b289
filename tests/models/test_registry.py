"""Networks by name."""

import sys

import pytest
import torch
from torch import nn

import kerneldna_ops
from kerneldna_ops.models import create_model, list_models, to_published
from kerneldna_ops.nn import SqueezeExcite


def test_every_listed_network_is_built():
    assert {"kerneldna_resnet18", "kerneldna_resnet50"} <= set(list_models())
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name, num_classes=4, in_channels=1, dynamic=True)
            assert model.eval()(torch.empty(2, 1, 64, 64)).shape == (2, 4)


@pytest.mark.parametrize("name", list_models())
def test_another_norm_in_the_gates_trains_on_one_image(name):
    model = create_model(name, num_classes=4, se_norm_layer=nn.LayerNorm)
    norms = {type(module.bn) for module in model.modules() if isinstance(module, SqueezeExcite)}
    assert norms == {nn.LayerNorm}
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match="have not published this form"):
        to_published(model)


def test_the_package_finds_it_when_asked():
    assert kerneldna_ops.models.create_model is create_model


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_static_networks(name, tmp_path):
    model = create_model(name, num_classes=4)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    again = create_model(name, num_classes=4, weights=tmp_path / "weights.pth").eval()
    images = torch.randn(2, 3, 64, 64)
    assert again(images).equal(model.eval()(images))
    with pytest.raises(ValueError, match=r"num_classes=4$"):
        create_model(name, num_classes=5, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v2", "timm/resnet18"])
@pytest.mark.parametrize("channels", [1, 5])
def test_static_networks_of_other_images(name, channels):
    with torch.device("meta"):
        model = create_model(name, num_classes=4, in_channels=channels)
        assert model.eval()(torch.empty(1, channels, 32, 32)).shape == (1, 4)


def test_further_channels_take_the_weights_of_the_three_in_turn():
    torch.manual_seed(5)
    colour = create_model("torchvision/mobilenet_v2", num_classes=2).features[0][0].weight
    torch.manual_seed(5)
    first = create_model("torchvision/mobilenet_v2", num_classes=2, in_channels=4).features[0][0].weight
    assert first.is_leaf
    assert first.equal(colour[:, [0, 1, 2, 0]])
    with pytest.raises(ValueError, match=r"^create_model: in_channels must be a whole number of at least 1, got 0$"):
        create_model("torchvision/mobilenet_v2", in_channels=0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18", "name must be one of kerneldna_.*, or timm/NAME or torchvision/NAME, got 'resnet18'"),
        ("torchvision/", "name must be one of .*, got 'torchvision/'"),
        ("keras/resnet18", "name must be one of .*, got 'keras/resnet18'"),
        ("torchvision/resnet17", "torchvision has no classification network named 'resnet17'"),
        ("torchvision/fcn_resnet50", "torchvision has no classification network named 'fcn_resnet50'"),
        ("timm/resnet17", "timm has no classification network named 'resnet17'"),
    ],
)
def test_unknown_names(name, sentence):
    with pytest.raises(ValueError, match=f"^create_model: {sentence}$"):
        create_model(name)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_missing_library(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=f"^create_model: {library}/resnet18: needs {library}, .* cannot be"):
        create_model(f"{library}/resnet18")
