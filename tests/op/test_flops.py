"""FlopCounterMode, and with it the tools that count by it, sees what the ops compute, forward and backward."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from kerneldna_ops import functional
from kerneldna_ops.models import count_macs, kerneldna_resnet18
from kerneldna_ops.nn import SqueezeExcite

NAMES = ("x", "weight", "c", "f", "s")


def flops(compute):
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def plain(x, weight, c, f, s, **geometry):
    """The same in PyTorch's operators, counted by PyTorch's formulas."""
    return F.conv2d(x * c[:, :, None, None], weight * s, **geometry) * f[:, :, None, None]


def ours(x, weight, c, f, s, **geometry):
    return functional.conv2d(x, weight, channel_attention=c, filter_attention=f, spatial_attention=s, **geometry)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("wanted", [NAMES, ("x",), ("weight",), ("c",), ("s",), ()], ids=",".join)
def test_conv_counts_as_pytorchs(wanted, groups):
    geometry = {"stride": (2, 1), "padding": 1, "groups": groups}
    shapes = (3, 4, 9, 8), (6, 4 // groups, 3, 2), (3, 4), (3, 6), (3, 2)
    tensors = [torch.randn(shape, requires_grad=name in wanted) for name, shape in zip(NAMES, shapes, strict=True)]

    def run(conv):
        output = conv(*tensors, **geometry)
        if wanted:
            output.sum().backward()

    expected = flops(lambda: run(plain))
    if {"weight", "s"} & {*wanted}:  # there PyTorch counts as if each group saw the channels of all
        expected -= (groups - 1) * flops(lambda: plain(*tensors, **geometry))
    assert flops(lambda: run(ours)) == expected > 0


@pytest.mark.parametrize("wanted", ["x", "weight", "a", "x weight a", ""])
def test_a_mixture_counts_one_convolution_of_each_sample(wanted):
    """Whatever the number of kernels: what mixes them is as small as other elementwise work."""
    x, weight, a = torch.randn(3, 4, 9, 8), torch.randn(5, 6, 4, 3, 2), torch.randn(3, 5)
    tensors = {"x": x, "weight": weight, "a": a}
    for name in wanted.split():
        tensors[name].requires_grad_()
    once = 2 * 3 * 6 * 7 * 7 * 4 * 3 * 2
    output = []
    assert flops(lambda: output.append(functional.conv2d(x, weight, kernel_attention=a))) == once
    if wanted:
        parts = ("x" in wanted.split()) + bool({"weight", "a"} & {*wanted.split()})
        assert flops(lambda: output[0].sum().backward()) == parts * once


def test_squeeze_excite_counts_its_layers():
    x, fc1, fc2 = torch.randn(5, 8, 3, 3), torch.randn(2, 8), torch.randn(8, 2)
    assert flops(lambda: torch.ops.kerneldna.squeeze_excite(x, fc1, None, fc2, None)) == 2 * 5 * 2 * (8 * 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_gate_counts_in_every_mode(training, gradients):
    gate, x = SqueezeExcite(8, 4).train(training), torch.randn(5, 8, 3, 3, requires_grad=True)
    forward = 2 * 5 * 2 * (8 * 2)
    with torch.set_grad_enabled(gradients):
        assert flops(lambda: gate(x)) == forward
        if gradients:
            assert flops(lambda: gate(x).sum().backward()) == 3 * forward


def test_a_network_costs_thrice_its_forward_in_training():
    network = kerneldna_resnet18(num_classes=10, dynamic=True).train()
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    macs = count_macs(network, images)
    assert flops(lambda: network(images)) == 2 * macs
    assert flops(lambda: network(images).sum().backward()) == 3 * 2 * macs


@pytest.mark.parametrize("first", ["torch.utils.flop_counter", "kerneldna_ops"])
def test_the_counter_is_imported_by_who_uses_it(first):
    program = f"""
import sys, torch, {first}
assert ("torch.utils.flop_counter" in sys.modules) == ({first!r} != "kerneldna_ops")
import kerneldna_ops, torch.utils.flop_counter
x = torch.ones(1, 2, 3, 3)
with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
    torch.ops.kerneldna.conv(x, torch.ones(4, 2, 1, 1))
assert counter.get_total_flops() == 2 * 4 * 2 * 9
"""
    subprocess.run([sys.executable, "-c", program], check=True)
