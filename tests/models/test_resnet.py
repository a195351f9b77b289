"""KernelDNA ResNet-18 and -50: size and structure as published, gradients, features, variants, bad arguments."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.models import count_macs, count_parameters, kerneldna_resnet18, kerneldna_resnet50
from kerneldna_ops.models.resnet import BasicBlock, Bottleneck, ResNet
from kerneldna_ops.nn import ChildConv2d

pytestmark = pytest.mark.usefixtures("threads")

BUILDERS = pytest.mark.parametrize("builder", [kerneldna_resnet18, kerneldna_resnet50])


def families(model):
    """Children and their parents, by name."""
    names = {module: name for name, module in model.named_modules()}
    return {name: names[module.parent] for module, name in names.items() if isinstance(module, ChildConv2d)}


def narrow(block=BasicBlock, **arguments):
    """A ResNet with an eighth of the channels and one shared stage of two blocks."""
    sharing = {"layer4": {(0, "conv2"): 1, (1, "conv1"): 1} if block is BasicBlock else {(1, "conv2"): 2}}
    return ResNet("narrow", block, (1, 1, 1, 3), sharing, num_classes=5, width=8, **arguments)


def on_meta(builder, **arguments):
    with torch.device("meta"):
        return builder(**arguments)


@pytest.mark.parametrize(
    ("builder", "parameters", "gmacs"),
    [(kerneldna_resnet18, 9_240_798, "2.277"), (kerneldna_resnet50, 22_778_060, "4.308")],
)
def test_size_is_as_published(builder, parameters, gmacs):
    model = on_meta(builder)
    assert count_parameters(model) == parameters
    assert f"{count_macs(model, torch.empty(1, 3, 224, 224, device='meta')) / 1e9:.3f}" == gmacs
    assert f"{parameters:,} parameters, {gmacs} GMAC" in builder.__doc__


@pytest.mark.parametrize("stage", ["layer3", "layer4"])
def test_resnet18_shares_as_published(stage):
    shared = {name: parent for name, parent in families(on_meta(kerneldna_resnet18)).items() if stage in name}
    within = {"0.conv2": "1.conv2", "1.conv1": "1.conv2", "2.conv1": "2.conv2"}
    assert shared == {f"{stage}.{child}": f"{stage}.{parent}" for child, parent in within.items()}


def test_resnet50_shares_as_published():
    pairs = {"layer3.1": "layer3.2", "layer3.3": "layer3.4", "layer3.5": "layer3.6", "layer4.1": "layer4.2"}
    assert families(on_meta(kerneldna_resnet50)) == {
        f"{child}.conv2": f"{parent}.conv2" for child, parent in pairs.items()
    }


@pytest.mark.parametrize(
    ("builder", "name", "dilated"),
    [
        (kerneldna_resnet18, "resnet18", None),
        (kerneldna_resnet50, "resnet50", None),
        (kerneldna_resnet50, "resnet50", [False, True, True]),
    ],
    ids=["resnet18", "resnet50", "dilated resnet50"],
)
def test_what_is_not_shared_is_torchvisions(builder, name, dilated):
    from torchvision import models

    static = on_meta(partial(models.get_model, name, replace_stride_with_dilation=dilated, num_classes=7))
    model = on_meta(builder, replace_stride_with_dilation=dilated, num_classes=7)
    convolutions = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | ChildConv2d)
    }
    for name, theirs in static.named_modules():
        if isinstance(theirs, nn.Conv2d):
            for argument in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"):
                assert getattr(convolutions[name], argument) == getattr(theirs, argument), (name, argument)
    own, borrowed = model.state_dict(), {f"{child}.weight" for child in families(model)}
    for name, value in static.state_dict().items():
        assert name in borrowed or own[name].shape == value.shape, name
    maps = torch.empty(2, model.feature_channels["layer3"], 15, 9, device="meta")
    assert model.layer4(maps).shape == static.layer4(maps).shape


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_gradient_of_a_shared_kernel_is_the_sum_over_its_uses(block):
    tied = narrow(block).double()
    untied = copy.deepcopy(tied)
    parents = {name: child.parent for name, child in untied.named_modules() if isinstance(child, ChildConv2d)}
    for name, parent in parents.items():
        untied.get_submodule(name).parent = copy.deepcopy(parent)
    images = torch.randn(3, 3, 40, 33, dtype=torch.float64)
    for model in (tied, untied):
        F.cross_entropy(model(images), torch.tensor([0, 2, 4])).backward()
    for name in sorted(set(families(tied).values())):
        borrowers = [child for child, parent in families(tied).items() if parent == name]
        uses = [untied.get_submodule(name), *(untied.get_submodule(child).parent for child in borrowers)]
        total = sum(use.weight.grad for use in uses)
        torch.testing.assert_close(tied.get_submodule(name).weight.grad, total, rtol=1e-9, atol=1e-12)
    ids = [id(parameter) for parameter in tied.parameters()]
    assert len(ids) == len(set(ids))


@BUILDERS
def test_features_through_torchvisions_utilities(builder):
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

    model = on_meta(builder).eval()
    images = torch.empty(2, 3, 64, 96, device="meta")
    stages = {f"layer{number}": str(number - 1) for number in (1, 2, 3, 4)}
    maps = IntermediateLayerGetter(model, stages)(images)
    for number, stage in enumerate(stages):
        size = 2 ** (number + 2)
        assert maps[str(number)].shape == (2, model.feature_channels[stage], 64 // size, 96 // size)
    assert model.forward_features(images).shape == maps["3"].shape
    with torch.device("meta"):
        pyramid = _resnet_fpn_extractor(model, trainable_layers=2)(images)
    assert [features.shape[1] for features in pyramid.values()] == [256] * 5


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_channels_last_is_kept_and_changes_nothing(training, dynamic):
    model = narrow(dynamic=dynamic).double().train(training)
    images = torch.randn(2, 3, 37, 45, dtype=torch.float64)
    expected = copy.deepcopy(model)(images)
    model.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    assert copy.deepcopy(model).forward_features(images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("training", [False, True])
def test_no_part_writes_into_its_input(training):
    model = narrow(Bottleneck).train(training)
    parts = {model: 3, model.layer1: 8, model.layer2: 32, model.layer4: 128}
    for part, channels in parts.items():
        x = torch.randn(2, channels, 33, 33)
        before = x.clone()
        with torch.no_grad():
            part(x)
        assert x.equal(before)


@BUILDERS
def test_dynamic_variant_has_all_attentions_per_sample(builder):
    model = on_meta(builder, dynamic=True)
    adapters = [module.adapter for module in model.modules() if isinstance(module, ChildConv2d)]
    assert {(adapter.filter, adapter.spatial) for adapter in adapters} == {("dynamic", "dynamic")}
    assert families(model) == families(on_meta(builder))


def test_dynamic_variant_trains_its_heads():
    model = narrow(dynamic=True)
    adapter = model.layer4[0].conv2.adapter
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    assert all(head.weight.eq(0).all() for head in (adapter.filter_head, adapter.spatial_head))
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    torch.optim.SGD(model.parameters(), 0.05).step()
    assert not adapter.filter_head.weight.eq(0).all()
    assert not adapter.spatial_head.weight.eq(0).all()
    assert F.cross_entropy(model(images), labels) < loss


@pytest.mark.parametrize(("dynamic", "training"), [(False, True), (True, False)])
def test_compiled_is_the_same(dynamic, training):
    torch.compiler.reset()
    model = narrow(dynamic=dynamic).train(training)
    twin = copy.deepcopy(model)
    images = torch.randn(3, 3, 40, 40)
    with torch.set_grad_enabled(training):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images), twin(images))
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_exported_is_the_same_for_any_batch():
    model = narrow(Bottleneck).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (torch.randn(2, 3, 40, 40),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, 40, 40)
    torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_networks_of_their_own(duplicate):
    model = narrow().eval()
    images = torch.randn(2, 3, 33, 33)
    twin = duplicate(model)
    assert families(twin) == families(model)
    expected = model(images)
    assert twin(images).equal(expected)
    with torch.no_grad():
        twin.layer4[1].conv2.weight.zero_()
    assert model(images).equal(expected)
    assert not twin(images).equal(expected)
    twin.load_state_dict(model.state_dict())
    assert twin(images).equal(expected)


def test_initial_weights_of_resnet18():
    """Kaiming's normal distribution, fan-out, for all convolutions, those of the squeeze-excites included."""
    model = kerneldna_resnet18(num_classes=2)
    child = model.layer4[0].conv2
    assert child.adapter.filter_attention.eq(0).all()
    for weight, fan_out in (
        (model.layer1[0].conv1.weight, 64 * 9),
        (child.parent.weight, 512 * 9),
        (child.adapter.se.fc1.weight, 128),
        (child.adapter.se.fc2.weight, 512),
    ):
        torch.testing.assert_close(weight.std(), torch.tensor((2 / fan_out) ** 0.5), rtol=0.02, atol=0)


def test_initial_weights_of_resnet50():
    """Up to layer2 as torchvision's; the authors leave the stages of theirs as PyTorch's layers start: uniform."""
    model = kerneldna_resnet50(num_classes=2)
    kaiming = model.layer2[1].conv2.weight
    torch.testing.assert_close(kaiming.std(), torch.tensor((2 / (128 * 9)) ** 0.5), rtol=0.02, atol=0)
    for weight, bound in (
        (model.layer3[2].conv2.weight, (256 * 9) ** -0.5),
        (model.layer4[1].conv2.adapter.se.fc2.weight, 128**-0.5),
    ):
        assert 0.99 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize(("builder", "channels"), [(kerneldna_resnet18, 512), (kerneldna_resnet50, 2048)])
def test_zero_init_residual_makes_blocks_start_as_their_shortcuts(builder, channels):
    block = builder(zero_init_residual=True, num_classes=2).layer4[1].eval()
    x = torch.rand(2, channels, 5, 5)
    assert block(x).equal(x)


def test_norm_layer():
    model = narrow(Bottleneck, norm_layer=partial(nn.GroupNorm, 4))
    norms = {type(module) for name, module in model.named_modules() if "bn" in name and ".se." not in name}
    assert norms == {nn.GroupNorm}
    for mode in (True, False):
        model.train(mode)(torch.randn(2, 3, 64, 64)).sum().backward()


def test_other_channels_and_classes():
    assert kerneldna_resnet18(in_channels=1, num_classes=10).eval()(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_classes": 0}, "kerneldna_resnet18: num_classes must be a whole number of at least 1, got 0"),
        ({"in_channels": 2.5}, "kerneldna_resnet18: in_channels must be a whole number of at least 1, got 2.5"),
        (
            {"replace_stride_with_dilation": [False, True, True]},
            "replace_stride_with_dilation must be False for basic blocks, they have no dilated form",
        ),
        (
            {"replace_stride_with_dilation": [True]},
            r"kerneldna_resnet18: replace_stride_with_dilation must have 3 values, for layer2, layer3 and layer4, got"
            r" \[True\]",
        ),
        (
            {"replace_stride_with_dilation": True},
            "kerneldna_resnet18: replace_stride_with_dilation must have 3 .*got True",
        ),
        (
            {"zero_init_residual": True, "norm_layer": nn.Identity},
            "zero_init_residual needs a norm_layer with a weight, got Identity without",
        ),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        on_meta(kerneldna_resnet18, **arguments)


def test_norm_layer_that_is_none():
    with pytest.raises(
        TypeError, match=r"^kerneldna_resnet18: norm_layer must be called with a number of .*, got 'batch'$"
    ):
        on_meta(kerneldna_resnet18, norm_layer="batch")
