"""Exports without asking: one graph of plain operators for every batch and image size, right in each."""

import copy

import pytest
import torch
from torch import nn

from kerneldna_ops import functional, use_backend
from kerneldna_ops.models.mobilenet_v2 import kerneldna_mobilenet_v2
from kerneldna_ops.nn import (
    AdaptiveConv2DMod,
    ChildConv2d,
    CondConv2d,
    DynamicConv2d,
    ModulatedConv2d,
    ODConv2d,
    conv_norm,
)
from support.exporters import EXPORTERS, decomposed

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("threads")]


class Calls(nn.Module):
    """The functional forms: static and per sample, in groups, depthwise, of uneven geometry, modulated."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 2))
        self.grouped = nn.Parameter(torch.randn(6, 2, 3, 2))
        self.depthwise = nn.Parameter(torch.randn(4, 1, 3, 2))
        self.kernels = nn.Parameter(torch.randn(3, 6, 4, 3, 2))
        self.bias, self.f, self.s = (nn.Parameter(torch.randn(shape)) for shape in (6, 6, (3, 2)))

    def forward(self, x):
        c = torch.sigmoid(x.mean((2, 3)))
        f = torch.cat([c, 2 * c[:, :2]], 1)
        s = c[:, :3, None] + c[:, None, :2]
        uneven = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}

        def conv(weight, bias=None, c=None, f=None, s=None, a=None, **geometry):
            attentions = {
                "channel_attention": c,
                "filter_attention": f,
                "spatial_attention": s,
                "kernel_attention": a,
            }
            return functional.conv2d(x, weight, bias, **attentions, **geometry)

        return (
            conv(self.weight, self.bias, c, self.f, self.s, **uneven),
            conv(self.weight, self.bias, c, f, s, **uneven),
            conv(self.grouped, None, self.f[:4], f, s, groups=2, **uneven),
            conv(self.depthwise, c=c, s=s, groups=4),
            conv(self.kernels, self.bias, c, f, s, a=c[:, :3], **uneven),
            conv(self.kernels, self.bias, c[..., None, None], f[..., None, None], a=c[:, :3, None, None]),
            conv(self.kernels[:1] * c[:, 0, None, None, None, None], self.bias, c, f, s, **uneven),
            functional.modulated_conv2d(x, self.weight, c + 1, padding=1),
        )


class Layers(nn.Module):
    """Children of each kind, behind a norm and not, in one network with their parents."""

    def __init__(self):
        super().__init__()
        self.parent = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.static = ChildConv2d(self.parent, reduction=2, bias=True, stride=(1, 2))
        self.dynamic = ChildConv2d(
            self.parent, reduction=2, bias=True, filter="dynamic", spatial="dynamic", padding_mode="circular"
        )
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = conv_norm(self.parent, self.norm, x)
        return conv_norm(self.dynamic, self.norm, torch.relu(conv_norm(self.static, self.norm, x)))


class Published(nn.Module):
    """The layers that have the interfaces of published ones."""

    def __init__(self):
        super().__init__()
        self.cond = CondConv2d(4, 5, (3, 2), stride=2, bias=True, num_experts=4)
        self.dynamic = DynamicConv2d(4, 6, 3, groups=2)
        self.od = ODConv2d(4, 5, 3, stride=(1, 2), padding=1)
        self.adaptive = AdaptiveConv2DMod(4, 5, 3, num_conv_kernels=4)
        self.modulated = ModulatedConv2d(4, 5, 3, up=2, resample_filter=[1, 3, 3, 1])

    def forward(self, x):
        c = x.mean((2, 3))
        return self.cond(x, c), self.dynamic(x), self.od(x), self.adaptive(x, c, c), self.modulated(x, c)


def network():
    settings = ((1, 8, 1, 1), (2, 8, 3, 2))
    return kerneldna_mobilenet_v2(
        num_classes=5, in_channels=4, width_mult=0.2, inverted_residual_setting=settings, dynamic=True
    )


def trained(module, example):
    """In eval mode, with parameters and statistics at no special values."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
        for _ in range(3):
            module.train()(example)
    return module.eval()


@pytest.fixture(scope="module", params=[Calls, Layers, Published, network], ids=lambda kind: kind.__name__.lower())
def module(request):
    torch.manual_seed(0)
    return trained(request.param(), torch.randn(8, 4, 9, 8))


def truth(module, x):
    """In float64 and with kernels for each sample."""
    with torch.no_grad(), use_backend("reference"):
        return copy.deepcopy(module).double()(x.double())


def assert_same(run, module, sizes=((2, 9, 8), (1, 9, 8), (5, 12, 7))):
    for batch, height, width in sizes:
        x = torch.randn(batch, 4, height, width)
        expected = truth(module, x)
        many = isinstance(expected, tuple)
        for one, wanted in zip(run(x) if many else [run(x)], expected if many else [expected], strict=True):
            torch.testing.assert_close(one.double(), wanted, rtol=1e-4, atol=1e-4)
            assert wanted.std() > 0.01


@pytest.mark.parametrize("exporter", EXPORTERS[1:], ids=lambda exporter: exporter.__name__)
def test_one_export_serves_every_size(module, exporter):
    assert_same(exporter(module, torch.randn(2, 4, 9, 8)), module)


@pytest.mark.parametrize("kind", [Calls, Published])
def test_a_decomposed_program_serves_every_size(kind):
    """What ONNX starts from, too."""
    module = trained(kind(), torch.randn(8, 4, 9, 8))
    assert_same(decomposed(module, torch.randn(2, 4, 9, 8)), module)


def test_training_can_be_traced(module):
    """In training mode, where a BatchNorm counts the batches."""
    module = copy.deepcopy(module).train()
    trace = torch.jit.trace(copy.deepcopy(module), torch.randn(3, 4, 9, 8), check_trace=False)
    x = torch.randn(5, 4, 8, 9)
    expected, got = (run(x) for run in (copy.deepcopy(module), trace))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_as_precise_as_of_the_op():
    """The taps are scaled, as the input is, before the one convolution sums them."""
    module = Calls().half()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float16)
    got, expected, exact = torch.jit.trace(module, x, check_trace=False)(x), module(x), truth(module, x)
    for one, wanted, true in zip(got, expected, exact, strict=True):
        error, bound = ((output.double() - true).abs().max() for output in (one, wanted))
        assert error <= 2 * bound + 1e-3


def test_an_argument_that_does_not_fit_is_named_while_tracing():
    class Wrong(nn.Module):
        def forward(self, x):
            return torch.ops.kerneldna.conv(x, torch.ones(6, 4, 3, 2), torch.ones(5))

    with pytest.raises(RuntimeError, match=r"^kerneldna::conv: bias must have shape \[6\] or .*, got \[5\]"):
        torch.jit.trace(Wrong(), torch.randn(2, 4, 9, 8))


def test_squeeze_excite_becomes_plain_too():
    class Gate(nn.Module):
        def forward(self, x):
            return torch.ops.kerneldna.squeeze_excite(x, torch.ones(2, 4), None, torch.ones(4, 2), None)

    x = torch.randn(3, 4, 5, 6)
    for exporter in EXPORTERS[:2]:
        torch.testing.assert_close(exporter(Gate(), torch.randn(2, 4, 9, 8))(x), Gate()(x))


def test_graph_of_tensorboard(module):
    graph = pytest.importorskip("torch.utils.tensorboard._pytorch_graph", exc_type=ImportError).graph
    definition, _ = graph(module, torch.randn(2, 4, 9, 8))
    operators = {node.op for node in definition.node}
    assert "aten::_convolution" in operators or "aten::convolution" in operators
    assert not any(operator.startswith("kerneldna") for operator in operators)
