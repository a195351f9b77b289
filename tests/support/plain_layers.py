"""The layers of kerneldna_ops.nn written in plain PyTorch after the paper, with the parameters of a given layer."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from kerneldna_ops.nn import ChildConv2d, SqueezeExcite
from support.cases import CPU


def in_dtype(layer, dtype, device=CPU):
    """A copy in another precision; the copy of a child borrows from a copy of its parent in that precision."""
    layer = copy.deepcopy(layer).to(device, dtype)
    if isinstance(layer, ChildConv2d):
        layer.parent.to(device, dtype)
    return layer


def randomise(layer):
    """Everything that starts at zero, at one or empty gets values that show when they are forgotten."""
    with torch.no_grad():
        for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point() and "fc" not in name:
                value.normal_(0, 0.5)
    return layer


def hidden(se: SqueezeExcite, input: Tensor) -> Tensor:
    bn = se.bn
    if not isinstance(bn, torch.nn.BatchNorm1d):
        return bn(input.mean((2, 3)) @ se.fc1.weight.t()).relu()
    x = F.conv2d(F.adaptive_avg_pool2d(input, 1), se.fc1.weight[..., None, None])
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    if not bn.training:
        mean, var = (t[:, None, None] for t in (bn.running_mean, bn.running_var))
    x = (x - mean) / (var + bn.eps).sqrt() * bn.weight[:, None, None] + bn.bias[:, None, None]
    return x.relu().flatten(1)


def gate(se: SqueezeExcite, input: Tensor) -> Tensor:
    return (hidden(se, input) @ se.fc2.weight.t() + se.fc2.bias).sigmoid()


def child(layer: ChildConv2d, input: Tensor) -> Tensor:
    """Sample by sample, with nn.Conv2d doing what it does with the child's arguments."""
    adapter, parent = layer.adapter, layer.parent
    batch, features = len(input), hidden(adapter.se, input)
    c = gate(adapter.se, input)
    f = input.new_ones(batch, layer.out_channels)
    s = input.new_ones(batch, *layer.kernel_size)
    if adapter.filter == "static":
        f = f * (1 + adapter.filter_attention)
    if adapter.filter == "dynamic":
        f = f * 2 * adapter.filter_head(features).sigmoid()
    if adapter.spatial == "static":
        s = s * (1 + adapter.spatial_attention)
    if adapter.spatial == "dynamic":
        s = s * 2 * adapter.spatial_head(features).sigmoid().view_as(s)

    conv = torch.nn.Conv2d(
        *(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation),
        groups=layer.groups,
        bias=False,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    outputs = []
    for n in range(batch):
        weight = parent.weight * f[n][:, None, None, None] * s[n]
        x = input[n : n + 1] * c[n][:, None, None]
        outputs.append(torch.func.functional_call(conv, {"weight": weight}, (x,)))
    output = torch.cat(outputs)
    return output if layer.bias is None else output + layer.bias[:, None, None]
