"""The peers of benchmarks/peers against their definitions: attention and kernel by sample, written out in loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import PEERS, set_temperature, share_warehouses
from benchmarks.peers.mixture import MixedConv2d
from kerneldna_ops import use_backend

pytestmark = pytest.mark.usefixtures("threads")

GEOMETRIES = {
    "3x3": ((6, 8, 3), {}),
    "1x1": ((6, 8, 1), {"bias": False}),
    "1x1_bias": ((6, 8, 1), {}),
    "3x2_stride_dilation_groups": (
        (6, 8, (3, 2)),
        {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2},
    ),
    "depthwise": ((6, 6, 3), {"padding": 1, "groups": 6, "bias": False}),
}
every_peer = pytest.mark.parametrize("name", PEERS)
every_geometry = pytest.mark.parametrize(("args", "options"), GEOMETRIES.values(), ids=GEOMETRIES)


def make(name, *args, **options):
    """A layer in float64 with parameters and statistics of no special values, as after some training."""
    layer = PEERS[name](*args, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    set_temperature(layer, 0.9)
    return layer.eval()


def linear(layer, vector):
    bias = 0 if layer.bias is None else layer.bias
    return layer.weight @ vector + bias


def squeezed(squeeze, image):
    dense, norm, _ = squeeze
    hidden = (linear(dense, image.mean((1, 2))) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return (hidden * norm.weight + norm.bias).relu()


def softmax(logits):
    powers = [math.exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


def sigmoid(logits):
    return 1 / (1 + (-logits).exp())


# Each takes (layer, image [C_in, H, W]) to the kernel of that sample, [C_out, C_in/groups, kh, kw], and its bias.


def mixed(layer, shares):
    kernel = sum(share * kernel for share, kernel in zip(shares, layer.weight, strict=True))
    bias = None
    if layer.bias is not None:
        bias = sum(share * bias for share, bias in zip(shares, layer.bias, strict=True))
    return kernel, bias


def cond_conv(layer, image):
    return mixed(layer, sigmoid(linear(layer.routing, image.mean((1, 2)))))


def dynamic_conv(layer, image):
    first, _, second = layer.attention.layers
    logits = linear(second, linear(first, image.mean((1, 2))).relu())
    return mixed(layer, softmax(logits / (30 + 0.9 * (1 - 30))))


def od_conv(layer, image):
    attention, temperature = layer.attention, 30 + 0.9 * (1 - 30)
    hidden = squeezed(attention.squeeze, image)
    shares = [1.0] if attention.kernel is None else softmax(linear(attention.kernel, hidden) / temperature)
    kernel, bias = mixed(layer, shares)
    kernel = kernel.clone()
    c = sigmoid(linear(attention.channel, hidden) / temperature)
    filters, channels, kh, kw = kernel.shape
    f = [1.0] * filters
    if attention.filter is not None:
        f = sigmoid(linear(attention.filter, hidden) / temperature)
    s = [1.0]
    if attention.spatial is not None:
        s = sigmoid(linear(attention.spatial, hidden) / temperature)
    for o in range(filters):
        group = o // (filters // layer.groups)
        for i in range(channels):
            for tap in range(kh * kw):
                kernel[o, i, tap // kw, tap % kw] *= f[o] * c[group * channels + i] * s[tap]
    return kernel, bias


def kernel_warehouse(layer, image):
    attention, temperature = layer.attention, 1 - 0.9
    cells, height, width = layer.warehouse.shape
    logits = linear(attention.head, squeezed(attention.squeeze, image)).view(-1, cells + 1)
    filters, channels, kh, kw = layer.kernel_shape
    kernel = layer.warehouse.new_zeros(layer.kernel_shape)
    mixture = 0
    for u in range(kh):
        for v in range(kw):
            for o in range(0, filters, height):
                for i in range(0, channels, width):
                    size = logits[mixture].abs().sum() + 1e-3
                    for cell in range(cells):
                        share = (1 - temperature) * logits[mixture, cell] / size
                        share = share + temperature * attention.assigned[mixture, cell]
                        kernel[o : o + height, i : i + width, u, v] += share * layer.warehouse[cell]
                    mixture += 1
    return kernel, layer.bias


def convolved(layer, image, kernel, bias):
    return F.conv2d(image[None], kernel, bias, layer.stride, layer.padding, layer.dilation, layer.groups)[0]


def squeeze_excite(layer, image):
    output = convolved(layer, image, layer.weight, layer.bias)
    first, _, second, _ = layer.excite
    gate = sigmoid(second.weight @ (first.weight @ output.mean((1, 2))).relu())
    return gate[:, None, None] * output


def dynamic_kernel(kernel_of_a_sample):
    return lambda layer, image: convolved(layer, image, *kernel_of_a_sample(layer, image))


DEFINITIONS = {
    "se": squeeze_excite,
    "condconv": dynamic_kernel(cond_conv),
    "dynamic": dynamic_kernel(dynamic_conv),
    "odconv": dynamic_kernel(od_conv),
    "odconv4": dynamic_kernel(od_conv),
    "kernelwarehouse": dynamic_kernel(kernel_warehouse),
    "kernelwarehouse-half": dynamic_kernel(kernel_warehouse),
}


@every_peer
@every_geometry
@pytest.mark.parametrize("by_op_calls", [False, True], ids=["by_sample", "by_op_calls"])
def test_output_is_that_of_the_definition(name, args, options, by_op_calls, monkeypatch):
    monkeypatch.setattr(MixedConv2d, "_op_calls_are_faster", lambda layer, input: by_op_calls)
    layer = make(name, *args, **options)
    images = torch.randn(3, args[0], 7, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([DEFINITIONS[name](layer, image) for image in images])
        torch.testing.assert_close(layer(images), expected)


@pytest.mark.parametrize("name", ["condconv", "dynamic", "odconv4"])
def test_both_ways_are_taken(name, ran):
    layer = PEERS[name](8, 8, 3, padding=1).eval()
    with use_backend("composite"):
        layer(torch.randn(16, 8, 12, 12))
        layer(torch.randn(2, 8, 3, 3))
        assert ran == []
        layer(torch.randn(16, 8, 3, 3))
    assert len(ran) == len(layer.weight)


def test_squeeze_excite_of_a_pointwise_layer_is_one_call_of_the_op(ran):
    with use_backend("composite"):
        PEERS["se"](4, 8, 3)(torch.randn(2, 4, 5, 5))
        assert ran == []
        PEERS["se"](4, 8, 1, bias=False)(torch.randn(2, 4, 5, 5))
    assert ran == ["composite"]


def test_odconv_leaves_out_the_attentions_that_say_nothing():
    assert PEERS["odconv"](6, 6, 3, groups=6).attention.filter is None
    assert PEERS["odconv"](6, 6, 3, groups=2).attention.filter is not None
    assert PEERS["odconv"](6, 6, 1).attention.spatial is None


@every_peer
def test_gradients_reach_every_parameter(name):
    layer = make(name, 16, 8, 3).train()
    layer(torch.randn(4, 16, 5, 5, dtype=torch.float64)).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in layer.parameters())


# Of a 3x3 layer from 64 to 32 channels with bias, that is 18432 weights and 32 biases.
PARAMETERS = {
    "se": 18464 + 2 * 32 * 4,
    "condconv": 8 * 18464 + 64 * 8,
    "dynamic": 4 * 18464 + (64 * 16 + 16) + (16 * 4 + 4),
    "odconv": 18464 + 64 * 16 + 2 * 16 + 17 * (64 + 32 + 9),
    "odconv4": 4 * 18464 + 64 * 16 + 2 * 16 + 17 * (64 + 32 + 9 + 4),
    "kernelwarehouse": 18464 + 64 * 16 + 2 * 16 + 17 * 9 * (9 + 1),
    "kernelwarehouse-half": 18432 * 4 // 9 + 32 + 64 * 16 + 2 * 16 + 17 * 9 * (4 + 1),
}


@every_peer
def test_number_of_parameters(name):
    layer = PEERS[name](64, 32, 3)
    assert sum(parameter.numel() for parameter in layer.parameters()) == PARAMETERS[name]


@every_peer
def test_kernels_start_as_large_as_static_ones(name):
    torch.manual_seed(0)
    layer = PEERS[name](32, 64, 3)
    kernels = layer.warehouse if "warehouse" in name else layer.weight
    assert kernels.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def temperatures(network):
    return [value.item() for key, value in network.state_dict().items() if key.endswith("temperature")]


def test_temperatures_are_annealed_together():
    network = nn.Sequential(*(PEERS[name](4, 4, 1) for name in ("dynamic", "odconv", "kernelwarehouse", "se")))
    assert temperatures(network) == [1, 1, 0]
    set_temperature(network, 0)
    assert temperatures(network) == [30, 30, 1]
    set_temperature(network, 0.5)
    assert temperatures(network) == [15.5, 15.5, 0.5]
    set_temperature(network, 1.5)
    assert temperatures(network) == [1, 1, 0]
    with pytest.raises(ValueError, match=r"^set_temperature: progress must be at least 0, got -1$"):
        set_temperature(network, -1)


def stage():
    return nn.Sequential(
        PEERS["kernelwarehouse"](4, 6, 3, bias=False),
        nn.Conv2d(6, 6, 1),
        nn.Sequential(PEERS["kernelwarehouse"](6, 12, 1), PEERS["kernelwarehouse"](12, 12, 3, groups=3)),
    )


def test_layers_of_a_stage_share_one_warehouse():
    network = nn.Sequential(stage(), stage())
    share_warehouses(*network)
    first, second = ([m.warehouse for m in part.modules() if hasattr(m, "warehouse")] for part in network)
    assert len({id(warehouse) for warehouse in first}) == len({id(warehouse) for warehouse in second}) == 1
    assert first[0] is not second[0]
    # Channels 4 -> 6, 6 -> 12 and 4 -> 12 in each of 3 groups: cells of 6 filters, 2 channels and one tap.
    assert first[0].shape == (9 * 1 * 2 + 1 * 2 * 3 + 9 * 2 * 2, 6, 2)
    assert first[0].numel() == 6 * 4 * 9 + 12 * 6 + 12 * 4 * 9
    assert network[0](torch.randn(2, 4, 5, 5)).shape == (2, 12, 1, 1)


def test_a_warehouse_starts_as_static_kernels():
    """At the first temperature each cell stands in one place, whatever the input, and a cell of zeros in the rest."""
    network = stage()
    for budget, zeros in ((1, 0), (2, 0), (0.5, 0.5)):
        for layer in (layers := [module for module in network.modules() if hasattr(module, "warehouse")]):
            layer.budget = budget
        share_warehouses(network)
        set_temperature(network, 0)
        kernels = [layer.kernels(torch.randn(2, layer.in_channels, 5, 5)) for layer in layers]
        assert all(torch.equal(of_one, of_another) for of_one, of_another in kernels)
        values = torch.cat([of_one.flatten() for of_one, _ in kernels])
        assert (values == 0).double().mean().item() == zeros
        assert len(values[values != 0].unique()) == (values != 0).sum()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("se", {"groups": 3}, "SEConv2d: groups must divide in_channels = 6 and out_channels = 8, got 3"),
        ("odconv", {"kernels": 0}, "ODConv2d: kernels must be at least 1, got 0"),
        ("kernelwarehouse", {"budget": 0}, "KernelWarehouseConv2d: budget must be above 0, got 0"),
    ],
)
def test_bad_input(name, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        PEERS[name](6, 8, 3, **options)
