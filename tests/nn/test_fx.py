"""torch.fx, and torchvision's tools built on it, take the layers for leaves."""

import copy

import pytest
import torch
from torch import fx, nn

from kerneldna_ops import functional
from kerneldna_ops.models import create_model, list_models
from kerneldna_ops.models.mobilenet_v2 import kerneldna_mobilenet_v2
from kerneldna_ops.nn import (
    AdaptiveConv2DMod,
    ChildConv2d,
    CondConv2d,
    ModulatedConv2d,
    SqueezeExcite,
    conv_norm,
)

pytestmark = pytest.mark.usefixtures("threads")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.parent = nn.Conv2d(6, 6, 3, padding=1)
        self.child = ChildConv2d(self.parent, reduction=2, filter="dynamic")
        self.norm = nn.BatchNorm2d(6)
        self.gate = SqueezeExcite(6, 2)

    def forward(self, x):
        x = conv_norm(self.child, self.norm, self.parent(x))
        x = functional.conv2d(x, self.parent.weight, channel_attention=self.gate(x))
        return functional.modulated_conv2d(x, self.parent.weight, x.mean((2, 3)))


def assert_same(module, graph, input):
    """Outputs, and what training leaves in the buffers; the latter on copies."""
    module, graph = copy.deepcopy(module), copy.deepcopy(graph)
    torch.testing.assert_close(graph(input), module(input))
    buffers = dict(module.named_buffers())
    for name, buffer in graph.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_graph_has_layers_and_functions(training, gradients):
    """Traced in any mode; the graph itself then follows the mode of its leaves."""
    network = Network().train(training)
    with torch.set_grad_enabled(gradients):
        graph = fx.symbolic_trace(network)
        assert_same(network, graph, torch.randn(3, 6, 7, 8))
        assert_same(network.train(not training), graph.train(not training), torch.randn(2, 6, 9, 7))
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert called == ["parent", "child", "norm", "gate"]
    functions = {node.target for node in graph.graph.nodes if node.op == "call_function"}
    assert {functional.conv2d, functional.modulated_conv2d} <= functions


def test_a_traced_child_borrows_from_the_parent_in_the_graph():
    graph = fx.symbolic_trace(Network())
    assert graph.child.parent is graph.parent


@pytest.mark.parametrize("name", list_models())
def test_networks_are_traced(name):
    with torch.device("meta"):
        network = create_model(name, dynamic=True)
    graph = fx.symbolic_trace(network).graph
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    leaves = {name for name, module in network.named_modules() if isinstance(module, ChildConv2d | nn.Conv2d)}
    assert leaves <= called
    assert not any("adapter" in name for name in called)


def test_features_of_torchvision():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    settings = ((1, 8, 1, 1), (2, 8, 3, 2))
    network = kerneldna_mobilenet_v2(num_classes=5, width_mult=0.2, inverted_residual_setting=settings)
    extractor = extraction.create_feature_extractor(network, {"features.2": "map", "classifier.1": "scores"})
    images = torch.randn(3, 3, 20, 24)
    for mode in (True, False):
        found = extractor.train(mode)(images)
        assert list(found) == ["map", "scores"]
        torch.testing.assert_close(found["map"], network.train(mode).features[:3](images))
    torch.testing.assert_close(found["scores"], network(images))


@pytest.mark.parametrize("layer", [SqueezeExcite(8), ChildConv2d(nn.Conv2d(8, 8, 1))], ids=lambda x: type(x).__name__)
def test_a_layer_by_itself_is_refused(layer):
    with pytest.raises(TypeError, match=f"^{type(layer).__name__}: torch.fx takes it as part of a network"):
        fx.symbolic_trace(layer)


class Function(nn.Module):
    """A function of what depends on the input, of parameters and of a constant, which a tracer sees as it is."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(3, 5, 4, 2, 3))
        self.bias = nn.Parameter(torch.randn(3, 5))
        self.register_buffer("constant", torch.randn(3, 4, 5, 6))

    def forward(self, x):
        return self.function(self, x, x.mean((2, 3)))


FUNCTIONS = {  # three samples and three kernels: [3, 5] may be a bias of either
    "a bias of each kernel": lambda m, x, c: functional.conv2d(x, m.weight, m.bias, kernel_attention=c[:, :3]),
    "shares of one pixel": lambda m, x, c: functional.conv2d(x, m.weight, kernel_attention=c[:, :3, None, None]),
    "channels of one pixel": lambda m, x, c: functional.conv2d(
        x, m.weight[0], channel_attention=c[..., None, None], filter_attention=m.bias[..., None, None]
    ),
    "padding by name": lambda m, x, c: functional.conv2d(x, m.weight[0], padding="same"),
    "an image": lambda m, x, c: functional.conv2d(x[0], m.weight[0]),
    "a backend": lambda m, x, c: functional.conv2d(x, m.weight[0], backend="reference"),
    "a constant": lambda m, x, c: functional.conv2d(m.constant, m.weight[0], channel_attention=c),
    "a weight of each sample": lambda m, x, c: functional.conv2d_per_sample(
        m.constant, m.weight * c[:, :1, None, None, None], m.bias
    ),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions(function):
    network = Function(function)
    assert_same(network, fx.symbolic_trace(network), torch.randn(3, 4, 5, 6))


def test_a_weight_of_each_sample_is_checked_in_the_graph():
    graph = fx.symbolic_trace(Function(lambda m, x, c: functional.conv2d_per_sample(x, m.weight[0])))
    with pytest.raises(ValueError, match=r"^conv2d_per_sample: weight must be 5-D"):
        graph(torch.randn(3, 4, 5, 6))


def test_features_of_a_function():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    network = Function(lambda m, x, c: FUNCTIONS["a bias of each kernel"](m, x, c).relu())
    images = torch.randn(3, 4, 5, 6)
    found = extraction.create_feature_extractor(network, {"relu": "map"})(images)
    torch.testing.assert_close(found["map"], network(images))


@pytest.mark.parametrize("kind", [CondConv2d, ModulatedConv2d, AdaptiveConv2DMod])
def test_a_layer_of_a_constant(kind):
    """As StyleGAN's first is: only what modulates depends on the input."""
    network = Function(lambda m, x, c: m.layer(m.constant, c))
    network.layer = kind(4, 5, 3)
    graph = fx.symbolic_trace(network)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["layer"]
    assert_same(network, graph, torch.randn(3, 4, 5, 6))
