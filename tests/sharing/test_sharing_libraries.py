"""Networks of torchvision and timm: converted, trained one step, saved, loaded, materialized."""

import copy
import io
import json

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.sharing import materialize as to_plain
from kerneldna_ops.sharing import propose_groups, share_kernels
from support.sharing_networks import disturb, output, same, state_of


def torchvision_model(name, **arguments):
    models = pytest.importorskip("torchvision.models")
    return getattr(models, name)(num_classes=10, **arguments)


def timm_model(name, **arguments):
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=10, **arguments)


# How to build it, how many parents and children, and the share of its parameters that is left.
NETWORKS = {
    "resnet18": (lambda: torchvision_model("resnet18"), 5, 8),
    "mobilenetv2_050": (lambda: timm_model("mobilenetv2_050"), 11, 15),
    "convnext_atto": (lambda: timm_model("convnext_atto", ls_init_value=0.5), 12, 12),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_trained_saved_loaded_materialized(name):
    make, parents, children = NETWORKS[name]
    model = make().eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    before, expected, modules = state_of(model), output(model, images), list(model.named_modules())
    static = sum(p.numel() for p in model.parameters())

    sharing = share_kernels(model, weight="mean")
    assert (len(sharing.parents), len(sharing.children)) == (parents, children)
    assert sum(p.numel() for p in model.parameters()) == sharing.report.parameters_after < 0.95 * static

    optimizer = torch.optim.SGD(model.train().parameters(), 0.01)
    kernels = {parent: conv.weight.clone() for parent, conv in sharing.parents.items()}
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    assert all(not conv.weight.equal(kernels[parent]) for parent, conv in sharing.parents.items())

    file = io.BytesIO()
    torch.save({"state": model.state_dict(), "mapping": json.dumps(sharing.mapping)}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = make().eval()
    share_kernels(fresh, **json.loads(saved["mapping"]))
    fresh.load_state_dict(saved["state"])
    optimizer.zero_grad()  # with gradients waiting nothing is folded, and rounded otherwise
    trained = output(model.eval(), images)
    assert output(fresh, images).equal(trained)

    disturb(sharing)
    precise = copy.deepcopy(model).double()
    plain = to_plain(precise)
    assert not any(isinstance(m, ChildConv2d | torch.nn.BatchNorm2d) for m in plain.modules())
    torch.testing.assert_close(output(plain, images.double()), output(precise, images.double()))
    assert not output(model, images).allclose(trained, rtol=1e-2)

    sharing.undo()
    assert list(model.named_modules()) == modules
    model.load_state_dict({key: before[key] for key in before if key not in sharing_keys(sharing)}, strict=False)
    assert same(model.state_dict(), before)
    assert output(model, images).equal(expected)


def sharing_keys(sharing):
    """What undo has to put back by itself."""
    return {f"{name}.{leaf}" for name in (*sharing.parents, *sharing.children) for leaf in ("weight", "bias")}


def test_published_layers_of_resnet50_are_among_the_proposed():
    model = torchvision_model("resnet50")
    groups = propose_groups(model)
    published = {parent: children for parent, children in groups.items() if parent[:6] in ("layer3", "layer4")}
    published = {parent: children for parent, children in published.items() if parent.endswith("conv2")}
    assert published == {
        "layer3.3.conv2": ["layer3.1.conv2", "layer3.2.conv2"],
        "layer3.5.conv2": ["layer3.4.conv2"],
        "layer4.2.conv2": ["layer4.1.conv2"],
    }
    assert not any("downsample" in name for parent, children in groups.items() for name in (parent, *children))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tf_efficientnet_b0", "is a timm.layers.conv2d_same.Conv2dSame, not exactly a torch.nn.Conv2d"),
        ("resnetv2_50x1_bit", "is a timm.layers.std_conv.StdConv2d, not exactly a torch.nn.Conv2d"),
        ("repvgg_a0", "has a weight that RepVggBlock._fuse_bn_tensor reads, which a child has not"),
    ],
)
def test_layers_of_timm_that_are_left_alone(name, reason):
    pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm_model(name)
    report = share_kernels(model).report
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert reason in reasons.values()
    refused = next(layer for layer, why in reasons.items() if why == reason)
    with pytest.raises(ValueError, match=r"^share_kernels: layer ") as error:
        share_kernels(model, {refused: [refused]})
    assert str(error.value) == f"share_kernels: layer {refused!r} {reason}"
