"""torch.fx, and torchvision's tools built on it, take the layers for leaves."""

import copy

import pytest
import torch
from torch import fx, nn

from kerneldna_ops import functional
from kerneldna_ops.models import create_model, list_models
from kerneldna_ops.models.mobilenet_v2 import kerneldna_mobilenet_v2
from kerneldna_ops.nn import ChildConv2d, SqueezeExcite, conv_norm

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
    assert {torch.ops.kerneldna.conv.default, functional.modulated_conv2d} <= functions


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
