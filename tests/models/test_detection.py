"""Maps through a feature pyramid, and Mask R-CNN, in torchvision's classes.

Where torchvision cannot load its operators, Mask R-CNN runs with Python ones (torchvision_operators.py).
"""

import sys

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kerneldna_ops.models import create_model, to_published
from kerneldna_ops.models.detection import (
    kerneldna_fpn,
    kerneldna_maskrcnn_fpn,
    kerneldna_maskrcnn_mobilenet_v2_fpn,
    kerneldna_maskrcnn_resnet18_fpn,
    kerneldna_maskrcnn_resnet50_fpn,
)
from kerneldna_ops.nn import ChildConv2d
from support import torchvision_operators

pytestmark = pytest.mark.usefixtures("threads")

NAMES = ["kerneldna_resnet18", "kerneldna_resnet50", "kerneldna_mobilenet_v2_050", "kerneldna_convnext_tiny"]
SMALL = {
    "min_size": 64,
    "max_size": 96,
    "rpn_pre_nms_top_n_train": 8,
    "rpn_pre_nms_top_n_test": 8,
    "rpn_post_nms_top_n_train": 8,
    "rpn_post_nms_top_n_test": 8,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a classifier of 7 classes, under the authors' names."""
    torch.manual_seed(2)
    model = create_model("kerneldna_resnet18", num_classes=7)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(to_published(model), path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_every_network(name):
    with torch.device("meta"):
        model = kerneldna_fpn(name, in_channels=1, dynamic=True)
        maps = model.eval()(torch.empty(2, 1, 128, 96))
    assert {key: tuple(value.shape) for key, value in maps.items()} == {
        "0": (2, 256, 32, 24),
        "1": (2, 256, 16, 12),
        "2": (2, 256, 8, 6),
        "3": (2, 256, 4, 3),
        "pool": (2, 256, 2, 2),
    }


@pytest.mark.parametrize("name", ["kerneldna_resnet18", "kerneldna_mobilenet_v2_050"])
def test_maps_are_those_of_the_network(name):
    model = kerneldna_fpn(name).eval()
    network = create_model(name)
    own = {key.removeprefix("features."): value for key, value in network.state_dict().items()}
    own.update(model.body.state_dict())
    prefix = "features." if hasattr(network, "features") else ""
    state = {prefix + key if not key.startswith("classifier") else key: value for key, value in own.items()}
    network.load_state_dict(state)
    maps = {}
    for module in network.feature_channels:
        network.get_submodule(module).register_forward_hook(
            lambda _, __, output, key=module: maps.update({key: output})
        )
    images = torch.randn(1, 3, 64, 64)
    network.eval()(images)
    for expected, output in zip(maps.values(), model.body(images).values(), strict=True):
        torch.testing.assert_close(output, expected)


def test_chosen_maps():
    with torch.device("meta"):
        model = kerneldna_fpn("kerneldna_resnet18", returned_layers=(2, 4))
        maps = model.eval()(torch.empty(1, 3, 64, 64))
    assert {key: value.shape[-1] for key, value in maps.items()} == {"0": 8, "1": 2, "pool": 1}


@pytest.mark.parametrize(
    ("name", "trainable_layers", "trained"),
    [
        ("kerneldna_resnet18", 0, set()),
        ("kerneldna_resnet18", 2, {"layer3", "layer4"}),
        ("kerneldna_resnet18", 4, {"layer1", "layer2", "layer3", "layer4"}),
        ("kerneldna_resnet18", None, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
        ("kerneldna_mobilenet_v2_050", 1, {"14", "15", "16", "17"}),
        ("kerneldna_mobilenet_v2_050", 3, {str(number) for number in range(4, 18)}),
        ("kerneldna_convnext_tiny", 2, {"4", "5", "6", "7"}),
    ],
)
def test_trainable_layers(name, trainable_layers, trained):
    with torch.device("meta"):
        model = kerneldna_fpn(name, trainable_layers=trainable_layers)
    assert {key.partition(".")[0] for key, value in model.body.named_parameters() if value.requires_grad} == trained
    assert all(parameter.requires_grad for parameter in model.fpn.parameters())


def test_trained_weights_keep_their_norms(weights):
    """Of ours and of the squeeze-excites: so that a batch of one image trains."""
    model = kerneldna_fpn("kerneldna_resnet18", weights=weights)
    classifier = create_model("kerneldna_resnet18", num_classes=7, weights=weights).state_dict()
    assert all(torch.equal(value, classifier[key]) for key, value in model.body.state_dict().items())
    norms = [module for module in model.body.modules() if isinstance(module, _BatchNorm)]
    assert any(isinstance(norm, nn.BatchNorm1d) for norm in norms)
    model.train()
    sum(output.square().mean() for output in model(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(torch.equal(value, classifier[key]) for key, value in model.body.state_dict().items())
    assert all(parameter.grad is None for norm in norms for parameter in norm.parameters())
    trained = {key.partition(".")[0] for key, value in model.body.named_parameters() if value.grad is not None}
    assert trained == {"layer2", "layer3", "layer4"}
    parents = {module.parent for module in model.modules() if isinstance(module, ChildConv2d)}
    assert all(parent.weight.grad.any() for parent in parents)


@pytest.fixture
def operators(monkeypatch):
    torchvision_operators.provide(monkeypatch)


def targets(count):
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 10:40, 12:50] = 1
    boxes = torch.tensor([[12.0, 10.0, 50.0, 40.0]])
    return [{"boxes": boxes, "labels": torch.tensor([1]), "masks": masks} for _ in range(count)]


@pytest.mark.usefixtures("operators")
def test_mask_rcnn_trains_and_detects(weights):
    model = kerneldna_maskrcnn_resnet18_fpn(
        num_classes=3, weights_backbone=weights, trainable_backbone_layers=5, box_score_thresh=0.0, **SMALL
    ).train()
    images = [torch.rand(3, 64, 64)]
    losses = model(images, targets(1))
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    children = [module for module in model.modules() if isinstance(module, ChildConv2d)]
    assert len(children) == 6
    for child in children:
        assert child.parent.weight.grad.any()
        assert child.adapter.filter_attention.grad.any()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.optim.SGD(parameters, lr=1e-3).step()

    with torch.no_grad():
        (found,) = model.eval()(images)
    assert 0 < len(found["boxes"]) == len(found["labels"]) == len(found["scores"])
    assert found["masks"].shape[1:] == (1, 64, 64)
    assert found["scores"].isfinite().all()


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("builder", [kerneldna_maskrcnn_resnet50_fpn, kerneldna_maskrcnn_mobilenet_v2_fpn])
def test_mask_rcnn_on_other_networks(builder):
    model = builder(num_classes=2, **SMALL).train()
    with torch.no_grad():
        losses = model([torch.rand(3, 64, 64), torch.rand(3, 64, 64)], targets(2))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.usefixtures("operators")
def test_mask_rcnn_from_scratch_on_one_image():
    model = kerneldna_maskrcnn_mobilenet_v2_fpn(num_classes=2, se_norm_layer=nn.LayerNorm, **SMALL).train()
    with torch.no_grad():
        losses = model([torch.rand(3, 64, 64)], targets(1))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.usefixtures("operators")
def test_weights_of_the_whole_detector(tmp_path):
    model = kerneldna_maskrcnn_resnet18_fpn(num_classes=2)
    torch.save({"model": model.state_dict()}, tmp_path / "detector.pth")
    weights = tmp_path / "detector.pth"
    # With trained weights, whichever, torchvision freezes the norms and all but three layers.
    again = kerneldna_maskrcnn_resnet18_fpn(num_classes=2, weights=weights, weights_backbone=tmp_path / "nowhere.pth")
    trained = {key.partition(".")[0] for key, value in again.backbone.body.named_parameters() if value.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    norms = [module for module in again.train().backbone.body.modules() if isinstance(module, _BatchNorm)]
    assert not any(norm.training or norm.weight.requires_grad or norm.bias.requires_grad for norm in norms)
    assert any(isinstance(norm, nn.BatchNorm1d) for norm in norms)
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    with pytest.raises(ValueError, match=r"detector\.pth: MaskRCNN: .* has shape"):
        kerneldna_maskrcnn_resnet18_fpn(num_classes=4, weights=tmp_path / "detector.pth")


def test_bad_arguments(weights):
    with pytest.raises(ValueError, match=r"^kerneldna_fpn: trainable_layers must be from 0 to 5, got 6$"):
        kerneldna_fpn("kerneldna_resnet18", trainable_layers=6)
    for layers in ((0, 1), (2, 1), (1, 1), ()):
        with pytest.raises(
            ValueError, match=r"^kerneldna_fpn: returned_layers must be some of 1, 2, 3 and 4, rising, got"
        ):
            kerneldna_fpn("kerneldna_resnet18", returned_layers=layers)
    with pytest.raises(ValueError, match=r"^kerneldna_fpn: needs maps at .*, got 2 of kerneldna_mobilenet_v2$"):
        kerneldna_fpn("kerneldna_mobilenet_v2", inverted_residual_setting=[(6, 24, 2, 2), (6, 32, 2, 2)])
    with pytest.raises(ValueError, match=r"kerneldna_fpn: name must be one of .*, got 'timm/resnet18'"):
        kerneldna_fpn("timm/resnet18")
    with pytest.raises(ValueError, match=r"resnet18\.pth: kerneldna_resnet50: "):
        kerneldna_fpn("kerneldna_resnet50", weights=weights)


def test_torchvision_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.extension", None)
    for builder in (kerneldna_fpn, kerneldna_maskrcnn_fpn):
        with pytest.raises(ModuleNotFoundError, match=f"^{builder.__name__}: needs torchvision, .* cannot be imported"):
            builder("kerneldna_resnet18")


def test_torchvision_has_no_operators(monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.extension, "_has_ops", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"^kerneldna_maskrcnn_fpn: needs the operators of torchvision"):
        kerneldna_maskrcnn_resnet18_fpn()
