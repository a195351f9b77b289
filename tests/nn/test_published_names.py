"""The dynamic convolutions under the names of others: the keys and shapes of their checkpoints, how they start, their
temperatures, timm's own layer, and what they say of arguments that do not fit."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from kerneldna_ops.nn import AdaptiveConv2DMod, CondConv2d, DynamicConv2d, ModulatedConv2d, ODConv2d
from support import exporters

pytestmark = pytest.mark.usefixtures("threads")

# As the authors' own files make them: kaijieshi7/Dynamic-convolution-Pytorch dynamic_conv.py, OSVAI/ODConv
# modules/odconv.py, timm layers/cond_conv2d.py, fal-ai/aura-sr aura_sr.py, NVlabs/stylegan3 training/networks_*.py.
OF_BATCH_NORM = {name: [16] for name in ("weight", "bias", "running_mean", "running_var")} | {"num_batches_tracked": []}
ODCONV = {
    "weight": [4, 10, 6, 3, 3],
    "attention.fc.weight": [16, 12, 1, 1],
    **{f"attention.bn.{name}": shape for name, shape in OF_BATCH_NORM.items()},
    "attention.channel_fc.weight": [12, 16, 1, 1],
    "attention.channel_fc.bias": [12],
    "attention.filter_fc.weight": [10, 16, 1, 1],
    "attention.filter_fc.bias": [10],
    "attention.spatial_fc.weight": [9, 16, 1, 1],
    "attention.spatial_fc.bias": [9],
    "attention.kernel_fc.weight": [4, 16, 1, 1],
    "attention.kernel_fc.bias": [4],
}


BUFFERS = ("running", "num_batches", "resample_filter")


def without(names, *left_out, **changed):
    kept = {key: shape for key, shape in names.items() if not any(part in key for part in left_out)}
    return {key: changed.get(key, shape) for key, shape in kept.items()}


CHECKPOINTS = {
    "condconv": (
        lambda: CondConv2d(12, 10, 3, groups=2, bias=True, num_experts=3),
        {"weight": [3, 10 * 6 * 9], "bias": [3, 10]},
    ),
    "condconv without bias": (lambda: CondConv2d(12, 10, (3, 5)), {"weight": [4, 10 * 12 * 15]}),
    "dynamic": (
        lambda: DynamicConv2d(12, 10, 3, groups=2),
        {
            "weight": [4, 10, 6, 3, 3],
            "bias": [4, 10],
            "attention.fc1.weight": [4, 12, 1, 1],
            "attention.fc2.weight": [4, 4, 1, 1],
            "attention.fc2.bias": [4],
        },
    ),
    "dynamic of an image": (
        lambda: DynamicConv2d(3, 10, 1, K=5, bias=False),
        {
            "weight": [5, 10, 3, 1, 1],
            "attention.fc1.weight": [5, 3, 1, 1],
            "attention.fc2.weight": [5, 5, 1, 1],
            "attention.fc2.bias": [5],
        },
    ),
    "odconv": (lambda: ODConv2d(12, 10, 3, groups=2), ODCONV),
    "odconv 1x1": (
        lambda: ODConv2d(12, 10, 1, groups=2),
        without(ODCONV, "spatial", weight=[4, 10, 6, 1, 1]),
    ),
    "odconv of one kernel": (
        lambda: ODConv2d(12, 10, 3, groups=2, kernel_num=1),
        without(ODCONV, "kernel_fc", weight=[1, 10, 6, 3, 3]),
    ),
    "odconv depthwise": (
        lambda: ODConv2d(12, 12, 3, groups=12),
        without(ODCONV, "filter", weight=[4, 12, 1, 3, 3]),
    ),
    "odconv of a wide layer": (
        lambda: ODConv2d(400, 1, 1, kernel_num=1),
        {
            "weight": [1, 1, 400, 1, 1],
            "attention.fc.weight": [25, 400, 1, 1],
            **{f"attention.bn.{name}": shape and [25] for name, shape in OF_BATCH_NORM.items()},
            "attention.channel_fc.weight": [400, 25, 1, 1],
            "attention.channel_fc.bias": [400],
            "attention.filter_fc.weight": [1, 25, 1, 1],
            "attention.filter_fc.bias": [1],
        },
    ),
    "adaptive": (lambda: AdaptiveConv2DMod(6, 8, 3, num_conv_kernels=4), {"weights": [4, 8, 6, 3, 3]}),
    "adaptive of one kernel": (lambda: AdaptiveConv2DMod(6, 8, 3), {"weights": [1, 8, 6, 3, 3]}),
    "modulated, up=2": (
        lambda: ModulatedConv2d(6, 8, 3, up=2, resample_filter=[1, 3, 3, 1]),
        {"weight": [8, 6, 3, 3], "resample_filter": [4, 4]},
    ),
    "modulated": (lambda: ModulatedConv2d(6, 8, 3), {"weight": [8, 6, 3, 3]}),
}


@pytest.mark.parametrize(("make", "names"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints_of_others(make, names):
    """Read by name, nothing missing or left, and written back as they were."""
    layer, checkpoint = make(), {key: torch.rand(shape) for key, shape in names.items()}
    if "attention.bn.num_batches_tracked" in checkpoint:
        checkpoint["attention.bn.num_batches_tracked"] = torch.tensor(7)
    layer.load_state_dict(checkpoint, strict=True)
    torch.testing.assert_close(dict(layer.state_dict()), checkpoint, rtol=0, atol=0)
    assert {key for key, _ in layer.named_parameters()} == {k for k in names if not any(word in k for word in BUFFERS)}


def assert_normal(tensor, deviation):
    assert tensor.mean().abs() < 5 * deviation / tensor.numel() ** 0.5
    assert tensor.std().item() == pytest.approx(deviation, rel=0.1)
    assert tensor.abs().max() > 2 * deviation  # which a uniform distribution does not reach


def assert_uniform(tensor, bound):
    assert tensor.abs().max() <= bound
    assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_start_of_dynamic_conv():
    layer = DynamicConv2d(64, 32, 3)
    for kernel in layer.weight:
        assert_uniform(kernel, (6 / (64 * 9)) ** 0.5)
    assert_normal(layer.attention.fc1.weight, (2 / 17) ** 0.5)
    assert_normal(layer.attention.fc2.weight, (2 / 4) ** 0.5)
    assert not layer.bias.any()
    assert not layer.attention.fc2.bias.any()
    assert_normal(DynamicConv2d(64, 32, 3, init_weight=False).weight, 1.0)


def test_start_of_odconv():
    layer = ODConv2d(64, 32, 3)
    for kernel in layer.weight:
        assert_normal(kernel, (2 / (32 * 9)) ** 0.5)
    for name, filters in {"fc": 16, "channel_fc": 64, "filter_fc": 32, "spatial_fc": 9}.items():
        head = getattr(layer.attention, name)
        assert_normal(head.weight, (2 / filters) ** 0.5)
        assert head.bias is None or not head.bias.any()


def test_start_of_the_others():
    assert_normal(ModulatedConv2d(32, 32, 3).weight, 1.0)
    # Of five dimensions fan-in is taken for the filters times the rest, as in their code.
    assert_normal(AdaptiveConv2DMod(16, 32, 3, num_conv_kernels=4).weights, (2 / (32 * 16 * 9)) ** 0.5)
    layer = CondConv2d(64, 32, 3, bias=True, num_experts=40)
    assert_uniform(layer.weight, (64 * 9) ** -0.5)
    assert_uniform(layer.bias, (64 * 9) ** -0.5)


TIMM = {
    "default": ((6, 8), {}),
    "bias": ((6, 8, 3), {"bias": True, "num_experts": 3}),
    "numbers": ((6, 8, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}),
    "symmetric": ((6, 8, (5, 4)), {"stride": (3, 1), "dilation": 2}),
    "symmetric with stride": ((6, 8, 3), {"stride": 2}),
    "valid": ((6, 8, 3), {"padding": "VALID"}),
    "same": ((6, 8, (5, 3)), {"padding": "same", "dilation": (1, 2)}),
    "same of an even kernel": ((6, 8, (4, 3)), {"padding": "same", "bias": True}),
    "same with stride": ((6, 6, 3), {"padding": "same", "stride": 2, "groups": 6, "num_experts": 8}),
    "same with a stride above the kernel": ((6, 8, 2), {"padding": "same", "stride": (4, 3)}),
}


@pytest.mark.parametrize(("args", "options"), TIMM.values(), ids=TIMM)
def test_condconv_is_that_of_timm(args, options):
    """The same numbers from the same seed, and the same outputs and gradients, for sizes that leave each remainder."""
    theirs_of = pytest.importorskip("timm.layers").CondConv2d
    layers = []
    for kind in (theirs_of, CondConv2d):
        torch.manual_seed(3)
        layers.append(kind(*args, **options))
    torch.testing.assert_close(*(layer.state_dict() for layer in layers), rtol=0, atol=0)
    theirs, ours = (layer.double() for layer in layers)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for name in ("in_channels", "kernel_size", "stride", "padding", "dynamic_padding", "num_experts", "weight_shape"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for size in ((9, 10), (10, 11), (12, 12), (11, 9)):
        x = torch.randn(3, 6, *size, dtype=torch.float64)
        r = torch.rand(3, ours.num_experts, dtype=torch.float64)
        outputs = [layer(x, r) for layer in (ours, theirs)]
        torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
        weighting = torch.randn_like(outputs[0])
        gradients = [
            torch.autograd.grad(output, tuple(layer.parameters()), weighting)
            for output, layer in zip(outputs, (ours, theirs), strict=True)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_same_padding_of_any_size_in_one_program():
    layer = CondConv2d(6, 6, 3, stride=2, padding="same", groups=6).eval()
    sizes = {axis: torch.export.Dim(f"size{axis}", min=5, max=64) for axis in (2, 3)}
    program = torch.export.export(layer, (torch.randn(2, 6, 9, 10), torch.rand(2, 4)), dynamic_shapes=(sizes, None))
    for size in ((9, 10), (10, 9), (16, 31)):
        inputs = torch.randn(2, 6, *size), torch.rand(2, 4)
        torch.testing.assert_close(program.module()(*inputs), layer(*inputs))


class SamePadding(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = CondConv2d(6, 6, 3, stride=2, padding="same", groups=6)

    def forward(self, x):
        return self.layer(x, x.mean((2, 3))[:, :4].sigmoid())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("export", [exporters.traced, exporters.onnx_of_a_trace])
def test_same_padding_of_any_size_in_a_trace(export):
    net = SamePadding().eval()
    exported = export(net, torch.randn(2, 6, 9, 10))
    for size in ((9, 10), (10, 9), (16, 31), (1, 2)):
        x = torch.randn(3, 6, *size)
        torch.testing.assert_close(exported(x), net(x), rtol=1e-4, atol=1e-5)


def test_annealing_of_dynamic_conv():
    layer = DynamicConv2d(6, 8, 3)
    temperatures = []
    for _ in range(14):
        temperatures.append(layer.attention.temperature)
        layer.update_temperature()
    assert temperatures == [34, 31, 28, 25, 22, 19, 16, 13, 10, 7, 4, 1, 1, 1]
    layer = DynamicConv2d(6, 8, 3, temperature=3)
    layer.update_temperature()
    assert layer.attention.temperature == 1
    layer = DynamicConv2d(6, 8, 3, temperature=0.5)
    layer.update_temperature()
    assert layer.attention.temperature == 0.5


def test_temperature_of_odconv():
    layer = ODConv2d(6, 8, 3).eval()
    assert layer.attention.temperature == 1
    x = torch.randn(2, 6, 5, 5)
    before = layer(x)
    layer.update_temperature(np.float32(30))
    assert layer.attention.temperature == 30
    assert not layer(x).allclose(before)
    layer.update_temperature(1)
    assert torch.equal(layer(x), before)


BAD_ARGUMENTS = {
    "CondConv2d: in_channels must be at least 1, got 0": lambda: CondConv2d(0, 8),
    "CondConv2d: out_channels must be an int, got 8.0": lambda: CondConv2d(6, 8.0),
    "CondConv2d: kernel_size must be at least 1, got [0, 3]": lambda: CondConv2d(6, 8, (0, 3)),
    "CondConv2d: groups must divide in_channels = 6 and out_channels = 8, got 3": lambda: CondConv2d(6, 8, groups=3),
    "CondConv2d: num_experts must be at least 1, got 0": lambda: CondConv2d(6, 8, num_experts=0),
    "CondConv2d: padding must be ints, '', 'same' or 'valid', got 'sane'": lambda: CondConv2d(6, 8, padding="sane"),
    "CondConv2d: padding must be at least 0, got [-1, -1]": lambda: CondConv2d(6, 8, padding=-1),
    "CondConv2d: bias must be True or False, got 1": lambda: CondConv2d(6, 8, bias=1),
    "DynamicConv2d: temperature must be above 0 and finite, got 0": lambda: DynamicConv2d(6, 8, 3, temperature=0),
    "DynamicConv2d: temperature must be a number, got '34'": lambda: DynamicConv2d(6, 8, 3, temperature="34"),
    "DynamicConv2d: ratio must be above 0 and finite, got nan": lambda: DynamicConv2d(6, 8, 3, ratio=math.nan),
    "DynamicConv2d: K must be at least 1, got -1": lambda: DynamicConv2d(6, 8, 3, K=-1),
    "DynamicConv2d: init_weight must be True or False, got None": lambda: DynamicConv2d(6, 8, 3, init_weight=None),
    "DynamicConv2d: stride must be at least 1, got [0, 0]": lambda: DynamicConv2d(6, 8, 3, stride=0),
    "DynamicConv2d: padding must be ints, 'same' or 'valid', got ''": lambda: DynamicConv2d(6, 8, 3, padding=""),
    "ODConv2d: temperature must be above 0 and finite, got -1": lambda: ODConv2d(6, 8, 3).update_temperature(-1),
    "ODConv2d: temperature must be above 0 and finite, got inf": lambda: ODConv2d(6, 8, 3).update_temperature(math.inf),
    "ODConv2d: temperature must be a number, got True": lambda: ODConv2d(6, 8, 3).update_temperature(True),
    "ODConv2d: reduction must be a number, got None": lambda: ODConv2d(6, 8, 3, reduction=None),
    "ODConv2d: kernel_num must be an int, got 4.0": lambda: ODConv2d(6, 8, 3, kernel_num=4.0),
    "ODConv2d: groups must divide in_planes = 6 and out_planes = 8, got 4": lambda: ODConv2d(6, 8, 3, groups=4),
    "ODConv2d: padding='same' needs stride 1, got (2, 2)": lambda: ODConv2d(6, 8, 3, 2, "same"),
    "AdaptiveConv2DMod: num_conv_kernels must be at least 1, got 0": lambda: AdaptiveConv2DMod(
        6, 8, 3, num_conv_kernels=0
    ),
    "AdaptiveConv2DMod: eps must be above 0 and finite, got 0": lambda: AdaptiveConv2DMod(6, 8, 3, eps=0),
    "AdaptiveConv2DMod: dilation must be at least 1, got [0, 0]": lambda: AdaptiveConv2DMod(6, 8, 3, dilation=0),
    "AdaptiveConv2DMod: demod must be True or False, got 1": lambda: AdaptiveConv2DMod(6, 8, 3, demod=1),
    "ModulatedConv2d: demodulate must be True or False, got 1": lambda: ModulatedConv2d(6, 8, 3, demodulate=1),
    "ModulatedConv2d: up must be 1 or 2, got 4": lambda: ModulatedConv2d(6, 8, 3, up=4),
    "ModulatedConv2d: down must be 1 or 2, got 0": lambda: ModulatedConv2d(6, 8, 3, down=0),
    "ModulatedConv2d: one of up and down must be 1, got 2 for both": lambda: ModulatedConv2d(6, 8, 3, up=2, down=2),
    "ModulatedConv2d: resample_filter must be taps or rows of taps with a finite sum above 0, got []": lambda: (
        ModulatedConv2d(6, 8, 3, up=2, resample_filter=[])
    ),
    "ModulatedConv2d: resample_filter must be taps or rows of taps with a finite sum above 0, got [1, -1]": lambda: (
        ModulatedConv2d(6, 8, 3, up=2, resample_filter=[1, -1])
    ),
    "ModulatedConv2d: padding must be at least 0, got [-1, -1]": lambda: ModulatedConv2d(6, 8, 3, padding=-1),
    "ModulatedConv2d: up must be 1 or 2, got True": lambda: ModulatedConv2d(6, 8, 3, up=True),
    "ModulatedConv2d: down must be 1 or 2, got 2.0": lambda: ModulatedConv2d(6, 8, 3, down=2.0),
    "ModulatedConv2d: up must be 1 or 2, got array([2, 1])": lambda: ModulatedConv2d(6, 8, 3, up=np.array([2, 1])),
    "ModulatedConv2d: padding must be an int or a pair of ints where up or down is 2, got 'same'": lambda: (
        ModulatedConv2d(6, 8, 3, up=2, padding="same")
    ),
    "ModulatedConv2d: resample_filter must be taps or rows of taps, got 'abc'": lambda: ModulatedConv2d(
        6, 8, 3, resample_filter="abc"
    ),
    "ModulatedConv2d: resample_filter must be taps or rows of taps with a finite sum above 0, got [inf]": lambda: (
        ModulatedConv2d(6, 8, 3, resample_filter=[math.inf])
    ),
    "DynamicConv2d: kernel_size must be an int or a pair of ints, got array([3, 3])": lambda: DynamicConv2d(
        6, 8, np.array([3, 3])
    ),
    "CondConv2d: stride must be an int or a pair of ints, got True": lambda: CondConv2d(6, 8, stride=True),
    "ODConv2d: norm_layer must be called with a number of features, or None, got 'batch'": lambda: ODConv2d(
        6, 8, 3, norm_layer="batch"
    ),
}
X = torch.randn(3, 6, 5, 5)
BAD_CALLS = {
    "CondConv2d: x must have 6 channels, got 5 in [3, 5, 4, 4]": lambda: CondConv2d(6, 8)(
        torch.randn(3, 5, 4, 4), torch.rand(3, 4)
    ),
    "CondConv2d: routing_weights must have shape [3, 4], got [3, 5]": lambda: CondConv2d(6, 8)(X, torch.rand(3, 5)),
    "CondConv2d: routing_weights must be a tensor [N, 4], got NoneType": lambda: CondConv2d(6, 8)(X, None),
    "CondConv2d: routing_weights must have the dtype of x (float32), got float64": lambda: CondConv2d(6, 8)(
        X, torch.rand(3, 4).double()
    ),
    "DynamicConv2d: x must be 4-D [N, 6, H, W], got 3-D [6, 5, 5]": lambda: DynamicConv2d(6, 8, 3)(X[0]),
    "DynamicConv2d: weight must have the dtype of x (float64), got float32": lambda: DynamicConv2d(6, 8, 3)(X.double()),
    "ODConv2d: only the batch of x may be empty, got [3, 6, 0, 5]": lambda: ODConv2d(6, 8, 3)(X[:, :, :0]),
    "ODConv2d: training needs at least 2 samples, because BatchNorm compares the samples of a batch"
    " (norm_layer=None or lambda features: nn.GroupNorm(1, features) takes one), got x of [1, 6, 5, 5]": lambda: (
        ODConv2d(6, 8, 3)(X[:1])
    ),
    "AdaptiveConv2DMod: mod must have shape [3, 6], got [3, 8]": lambda: AdaptiveConv2DMod(6, 8, 3)(
        X, torch.rand(3, 8)
    ),
    "AdaptiveConv2DMod: mod must have shape [3, 6], got [2, 6]": lambda: AdaptiveConv2DMod(6, 8, 3)(
        X, torch.rand(2, 6)
    ),
    "AdaptiveConv2DMod: mod must be a tensor [N, 6], got NoneType": lambda: AdaptiveConv2DMod(6, 8, 3)(X, None),
    "AdaptiveConv2DMod: mod must have shape [3, 6], got [1, 6, 1]": lambda: AdaptiveConv2DMod(6, 8, 3)(
        X, torch.rand(1, 6, 1)
    ),
    "AdaptiveConv2DMod: weights must be float64 where fmap is float64, got float32": lambda: AdaptiveConv2DMod(6, 8, 3)(
        X.double(), X[:, :, 0, 0].double()
    ),
    "AdaptiveConv2DMod: mod must be float32 where fmap is float32, got float16": lambda: AdaptiveConv2DMod(6, 8, 3)(
        X, X[:, :, 0, 0].half()
    ),
    "AdaptiveConv2DMod: kernel_mod must be None where num_conv_kernels is 1": lambda: AdaptiveConv2DMod(6, 8, 3)(
        X, X[:, :, 0, 0], torch.rand(3, 4)
    ),
    "AdaptiveConv2DMod: kernel_mod must be [N, 4], got none": lambda: AdaptiveConv2DMod(6, 8, 3, num_conv_kernels=4)(
        X, X[:, :, 0, 0], torch.rand(3, 0)
    ),
    "AdaptiveConv2DMod: kernel_mod must have shape [3, 4], got [3, 5]": lambda: AdaptiveConv2DMod(
        6, 8, 3, num_conv_kernels=4
    )(X, X[:, :, 0, 0], torch.rand(3, 5)),
}


@pytest.mark.parametrize("sentence", [*BAD_ARGUMENTS, *BAD_CALLS])
def test_bad_input(sentence):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(sentence)}$"):
        (BAD_ARGUMENTS | BAD_CALLS)[sentence]()


def test_one_kernel_takes_an_empty_choice():
    """As AuraSR's generator splits it off for layers without a choice."""
    layer = AdaptiveConv2DMod(6, 8, 3)
    mod = X[:, :, 0, 0]
    assert torch.equal(layer(X, mod, torch.empty(3, 0)), layer(X, mod))


def test_integers_as_conv2d_takes_them():
    layer = ODConv2d(6, 8, [np.int64(3), 3], padding=(1,), stride=torch.tensor(2))
    assert (layer.kernel_size, layer.padding, layer.stride) == ((3, 3), (1, 1), (2, 2))
    assert ModulatedConv2d(6, 8, 3, up=np.int64(2)).up == 2


NORMS = {
    "GroupNorm": (lambda features: nn.GroupNorm(1, features), ["weight", "bias"]),
    "none": (None, []),
    "LayerNorm": (
        lambda features: nn.Sequential(nn.Flatten(), nn.LayerNorm(features), nn.Unflatten(1, (-1, 1, 1))),
        ["1.weight", "1.bias"],
    ),
}


@pytest.mark.parametrize(("norm_layer", "names"), NORMS.values(), ids=NORMS)
def test_one_sample_in_training_with_another_norm(norm_layer, names):
    layer = ODConv2d(6, 8, 3, norm_layer=norm_layer).double()
    assert [name for name in layer.state_dict() if "bn" in name] == [f"attention.bn.{name}" for name in names]
    x = torch.randn(1, 6, 5, 5, dtype=torch.float64)
    output = layer(x)
    together = layer.eval()(torch.cat([x, torch.randn_like(x)]))
    torch.testing.assert_close(output, together[:1])
    output.square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_norms_of_all_processes():
    """convert_sync_batchnorm finds the norm of the attention, which then says itself what it needs."""
    layer = ODConv2d(6, 8, 3)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert type(layer.attention.bn) is nn.SyncBatchNorm
    torch.testing.assert_close(dict(layer.state_dict()), state, rtol=0, atol=0)
    torch.testing.assert_close(layer.eval()(X[:1]), layer(X)[:1])
