"""FCN in torchvision's classes on ResNets that share kernels."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.models import create_model
from kerneldna_ops.models.segmentation import kerneldna_fcn, kerneldna_fcn_resnet18, kerneldna_fcn_resnet50
from kerneldna_ops.nn import ChildConv2d

pytestmark = pytest.mark.usefixtures("threads")


@pytest.mark.parametrize("dynamic", [False, True])
def test_training_step(dynamic):
    model = kerneldna_fcn_resnet18(num_classes=4, aux_loss=True, dynamic=dynamic).train()
    outputs = model(torch.randn(2, 3, 48, 40))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {"out": (2, 4, 48, 40), "aux": (2, 4, 48, 40)}
    wanted = torch.randint(0, 4, (2, 48, 40))
    (F.cross_entropy(outputs["out"], wanted) + 0.5 * F.cross_entropy(outputs["aux"], wanted)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    parents = {module.parent for module in model.modules() if isinstance(module, ChildConv2d)}
    assert len(parents) == 4
    assert all(parent.weight.grad.any() for parent in parents)


def test_training_on_one_image():
    model = kerneldna_fcn_resnet18(num_classes=4, se_norm_layer=None).train()
    model(torch.randn(1, 3, 48, 40))["out"].sum().backward()


def test_resnet50_is_dilated_as_torchvisions():
    import torchvision

    def geometry(model):
        layers = (nn.Conv2d, ChildConv2d)
        return {
            name: (module.kernel_size, module.stride, module.padding, module.dilation)
            for name, module in model.named_modules()
            if isinstance(module, layers)
        }

    with torch.device("meta"):
        model = kerneldna_fcn_resnet50(aux_loss=True)
        static = torchvision.models.segmentation.fcn_resnet50(weights_backbone=None, aux_loss=True)
        maps = model.backbone(torch.empty(2, 3, 64, 48))
        assert {key: tuple(value.shape) for key, value in maps.items()} == {
            "out": (2, 2048, 8, 6),
            "aux": (2, 1024, 8, 6),
        }
        assert model.eval()(torch.empty(1, 3, 64, 48))["out"].shape == (1, 21, 64, 48)
    ours, theirs = geometry(model), geometry(static)
    assert len(ours.keys() - theirs.keys()) == 3  # layer3 has one block more
    assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
    children = [name for name, module in model.named_modules() if isinstance(module, ChildConv2d)]
    assert {ours[name] for name in children if "layer3" in name} == {((3, 3), (1, 1), (2, 2), (2, 2))}
    assert {ours[name] for name in children if "layer4" in name} == {((3, 3), (1, 1), (4, 4), (4, 4))}


def test_weights(tmp_path):
    classifier = create_model("kerneldna_resnet18", num_classes=3)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    model = kerneldna_fcn_resnet18(num_classes=2, weights_backbone=tmp_path / "classifier.pth")
    state = classifier.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.backbone.state_dict().items())
    torch.save(model.state_dict(), tmp_path / "fcn.pth")
    again = kerneldna_fcn_resnet18(num_classes=2, weights=tmp_path / "fcn.pth")
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    with pytest.raises(ValueError, match=r"classifier\.pth: kerneldna_resnet50: "):
        kerneldna_fcn_resnet50(weights_backbone=tmp_path / "classifier.pth")
    with pytest.raises(ValueError, match=r"fcn\.pth: FCN: "):
        kerneldna_fcn_resnet18(num_classes=5, weights=tmp_path / "fcn.pth")


def test_other_network_is_refused():
    with pytest.raises(ValueError, match=r"^kerneldna_fcn: name must be one of .*, got 'kerneldna_mobilenet_v2'$"):
        kerneldna_fcn("kerneldna_mobilenet_v2")


def test_torchvision_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.extension", None)
    with pytest.raises(ModuleNotFoundError, match=r"^kerneldna_fcn: needs torchvision, which cannot be imported"):
        kerneldna_fcn_resnet18()
