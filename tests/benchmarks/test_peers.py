"""The peers that kerneldna_ops.nn has not, against their definitions written out in loops; the usual form of those that
it has, against its own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import PEERS, has_temperatures, set_temperature, share_warehouses
from benchmarks.peers.cond_conv import CondConv2d
from benchmarks.peers.grouped import GroupedCondConv2d, GroupedODConv2d
from kerneldna_ops import use_backend
from kerneldna_ops.nn import ODConv2d

pytestmark = pytest.mark.usefixtures("threads")

GEOMETRIES = {
    "3x3": ((6, 8, 3), {}),
    "1x1": ((6, 8, 1), {}),
    "3x2_stride_dilation_groups": (
        (6, 8, (3, 2)),
        {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2},
    ),
    "depthwise": ((6, 6, 3), {"padding": 1, "groups": 6}),
}
every_geometry = pytest.mark.parametrize(("args", "options"), GEOMETRIES.values(), ids=GEOMETRIES)


def after_training(layer):
    """In float64, with parameters and statistics of no special values."""
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
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


def sigmoid(logits):
    return 1 / (1 + (-logits).exp())


def convolved(layer, image, kernel):
    return F.conv2d(image[None], kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)[0]


def squeeze_excite(layer, image):
    output = convolved(layer, image, layer.weight)
    first, _, second, _ = layer.excite
    gate = sigmoid(second.weight @ (first.weight @ output.mean((1, 2))).relu())
    return gate[:, None, None] * output


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
    return convolved(layer, image, kernel)


DEFINITIONS = {"se": squeeze_excite, "kernelwarehouse": kernel_warehouse, "kernelwarehouse-half": kernel_warehouse}


@pytest.mark.parametrize("name", DEFINITIONS)
@every_geometry
def test_output_is_that_of_the_definition(name, args, options):
    layer = after_training(PEERS[name](*args, **options))
    images = torch.randn(3, args[0], 7, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([DEFINITIONS[name](layer, image) for image in images])
        torch.testing.assert_close(layer(images), expected)


LAYERS = {
    "condconv": (CondConv2d, GroupedCondConv2d, {}),
    "odconv": (ODConv2d, GroupedODConv2d, {"kernel_num": 1}),
    "odconv4": (ODConv2d, GroupedODConv2d, {}),
}


@pytest.mark.parametrize(("ours", "usual", "arguments"), LAYERS.values(), ids=LAYERS)
@every_geometry
def test_the_usual_form_gives_what_ours_gives(ours, usual, arguments, args, options):
    layer = after_training(ours(*args, **options, **arguments))
    other = usual(*args, **options, **arguments).double().eval()
    other.load_state_dict(layer.state_dict())
    set_temperature(other, 0.9)
    images = torch.randn(3, args[0], 7, 6, dtype=torch.float64)
    torch.testing.assert_close(other(images), layer(images))


def test_condconv_routes_by_the_mean_of_its_input():
    layer = after_training(CondConv2d(6, 8, 3))
    image = torch.randn(1, 6, 5, 5, dtype=torch.float64)
    shares = sigmoid(linear(layer.routing, image[0].mean((1, 2))))
    kernel = sum(share * kernel for share, kernel in zip(shares, layer.weight.view(8, 8, 6, 3, 3), strict=True))
    torch.testing.assert_close(layer(image), F.conv2d(image, kernel))


def test_squeeze_excite_of_a_pointwise_layer_is_one_call_of_the_op(ran):
    with use_backend("composite"):
        PEERS["se"](4, 8, 3)(torch.randn(2, 4, 5, 5))
        assert ran == []
        PEERS["se"](4, 8, 1)(torch.randn(2, 4, 5, 5))
    assert ran == ["composite"]


@pytest.mark.parametrize("name", PEERS)
def test_gradients_reach_every_parameter(name):
    layer = after_training(PEERS[name](16, 8, 3)).train()
    layer(torch.randn(4, 16, 5, 5, dtype=torch.float64)).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in layer.parameters())


# Of a 3x3 layer from 64 to 32 channels, that is 18432 weights.
PARAMETERS = {
    "se": 18432 + 2 * 32 * 4,
    "condconv": 8 * 18432 + 64 * 8,
    "dynamic": 4 * 18432 + 64 * 17 + (17 * 4 + 4),
    "odconv": 18432 + 64 * 16 + 2 * 16 + 17 * (64 + 32 + 9),
    "odconv4": 4 * 18432 + 64 * 16 + 2 * 16 + 17 * (64 + 32 + 9 + 4),
    "kernelwarehouse": 18432 + 64 * 16 + 2 * 16 + 17 * 9 * (9 + 1),
    "kernelwarehouse-half": 18432 * 4 // 9 + 64 * 16 + 2 * 16 + 17 * 9 * (4 + 1),
}


@pytest.mark.parametrize("name", PEERS)
def test_number_of_parameters(name):
    layer = PEERS[name](64, 32, 3)
    assert sum(parameter.numel() for parameter in layer.parameters()) == PARAMETERS[name]


def temperatures(network):
    return [layer.attention.temperature for layer in network if has_temperatures(layer)]


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
        PEERS["kernelwarehouse"](4, 6, 3),
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


def test_bad_input():
    with pytest.raises(ValueError, match=r"^KernelWarehouseConv2d: budget must be above 0, got 0$"):
        PEERS["kernelwarehouse"](6, 8, 3, budget=0)
