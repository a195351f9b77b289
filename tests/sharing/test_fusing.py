"""Tools that fold BatchNorm into convolutions by their weights, as YOLO's networks and mmcv do, on shared kernels."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.sharing import materialize, share_kernels
from support.sharing_networks import build, output


def folded(conv, bn):
    return fuse_conv_bn_weights(conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)


def fuse_conv_and_bn(conv, bn):
    fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    fused.weight, fused.bias = folded(conv, bn)
    return fused


def fuse_in_place(conv, bn):
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return conv


class Conv(nn.Module):
    def __init__(self, c1, c2):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


class Yolo(nn.Module):
    """As YOLO's networks are built: no layer reads a weight but in what `fuse` calls."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(Conv(3, 8), *(Conv(8, 8) for _ in range(4)))

    def forward(self, x):
        return self.model(x).mean((2, 3))

    def fuse(self):
        for m in self.model.modules():
            if isinstance(m, Conv) and hasattr(m, "bn"):
                m.conv = fuse_conv_and_bn(m.conv, m.bn)
                del m.bn
                m.forward = m.forward_fuse
        return self


class YoloInPlace(Yolo):
    def fuse(self):
        for m in self.model.modules():
            if isinstance(m, Conv) and hasattr(m, "bn"):
                m.conv = fuse_in_place(m.conv, bn=m.bn)
                del m.bn
                m.forward = m.forward_fuse
        return self


@pytest.mark.parametrize(
    ("kind", "method"),
    [(Yolo, "Yolo.fuse, by fuse_conv_and_bn,"), (YoloInPlace, "YoloInPlace.fuse, by fuse_in_place,")],
)
def test_fuse_is_refused_before_a_shared_layer_changes(images, kind, method):
    net = build(kind)
    plain = output(copy.deepcopy(net).fuse(), images)
    torch.testing.assert_close(plain, output(net, images))
    sharing = share_kernels(net)
    assert sharing.mapping["groups"] == {"model.2.conv": ["model.1.conv"], "model.4.conv": ["model.3.conv"]}
    note = (
        f"{method} would read the weights of children, which have none: kerneldna_ops.materialize folds norms instead"
    )
    assert sharing.report.notes[0] == note
    assert str(sharing.report).splitlines()[-len(sharing.report.notes) :] == list(sharing.report.notes)

    expected = output(net, images)
    weights = {name: parent.weight.clone() for name, parent in sharing.parents.items()}
    with pytest.raises(AttributeError, match=r"^ChildConv2d: has no weight of its own, for it modulates that of child"):
        net.fuse()
    torch.testing.assert_close(output(net, images), expected)
    assert all(parent.weight.equal(weights[name]) for name, parent in sharing.parents.items())
    plain = materialize(net.eval())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    torch.testing.assert_close(output(plain, images), expected)


def test_networks_without_such_a_method_have_no_notes():
    net = build(lambda: nn.Sequential(Conv(3, 8), *(Conv(8, 8) for _ in range(4))))
    assert share_kernels(net, {"2.conv": ["1.conv"]}).report.notes == ()


def fuse_every_conv2d(model):
    """As mmcv's fuse_conv_bn: by class, which passes children over."""
    last = None
    for name, module in model.named_children():
        if isinstance(module, nn.BatchNorm2d) and last is not None:
            fuse_in_place(getattr(model, last), module)
            setattr(model, name, nn.Identity())
            last = None
        elif isinstance(module, nn.Conv2d):
            last = name
        else:
            fuse_every_conv2d(module)


def test_norms_that_are_folded_into_a_parent_with_a_bias(net, images):
    """Nothing tells that from another weight and bias, as of a checkpoint: the report says it before."""
    sharing = share_kernels(net)
    parents = ", ".join(f"blocks.{n}.conv2" for n in range(3))
    assert sharing.report.notes == (
        f"children would not notice a norm that is folded into the weight of {parents}, by a tool that finds layers by"
        " their class: kerneldna_ops.materialize folds norms instead",
    )
    expected = output(net, images)
    fuse_every_conv2d(net)
    assert not output(net, images).allclose(expected)


def test_a_tool_that_passes_children_over(images):
    net = build(Yolo)
    share_kernels(net)
    fuse_every_conv2d(net)
    net.eval()
    assert sum(isinstance(module, ChildConv2d) for module in net.modules()) == 2
    for grad in (False, True):
        with (
            torch.set_grad_enabled(grad),
            pytest.raises(RuntimeError, match=r"^ChildConv2d: the parent has got a bias"),
        ):
            net(images)
    with pytest.raises(RuntimeError, match=r"^ChildConv2d: the parent has got a bias"):
        materialize(net)
