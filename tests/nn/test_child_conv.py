"""ChildConv2d: the formula against nn.Conv2d sample by sample, forward and gradients, for all arguments."""

import math

import numpy
import pytest
import torch
from torch import nn

from kerneldna_ops.nn import ChildConv2d
from support import plain_layers
from support.layouts import IMAGES
from support.plain_layers import in_dtype, randomise
from support.tolerance import Truth, assert_within, plain_dtype

pytestmark = pytest.mark.usefixtures("threads")

CHOICES = ("static", "dynamic", None)


def child_of(parent, **options):
    """Both with random values, in float64."""
    return randomise(ChildConv2d(randomise(parent.double()), **options))


def assert_formula(child, input):
    with torch.no_grad():
        torch.testing.assert_close(child(input), plain_layers.child(child, input))


@pytest.mark.parametrize("filter", CHOICES)
@pytest.mark.parametrize("spatial", CHOICES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_attentions(device, filter, spatial, mode):
    child = child_of(nn.Conv2d(8, 12, (3, 2), bias=False), filter=filter, spatial=spatial).train(mode == "train")
    child = in_dtype(child, torch.float64, device)
    input = torch.randn(3, 8, 6, 5, dtype=torch.float64, device=device, requires_grad=True)
    output = child(input)
    expected = plain_layers.child(child, input)
    torch.testing.assert_close(output, expected)

    leaves = [input, child.parent.weight, *child.parameters()]
    grad = torch.randn_like(output)
    ours, plain = (torch.autograd.grad(y, leaves, grad) for y in (output, expected))
    torch.testing.assert_close(ours, plain)
    assert_formula(child, input)


GEOMETRIES = {
    "as the parent": (nn.Conv2d(8, 12, 3, stride=2, padding=1, dilation=2, groups=4), {}),
    "stride": (nn.Conv2d(8, 12, 3, stride=2, padding=1), {"stride": (1, 2)}),
    "padding": (nn.Conv2d(8, 12, 3), {"padding": (2, 0)}),
    "dilation": (nn.Conv2d(8, 12, 3), {"dilation": (1, 2)}),
    "same": (nn.Conv2d(8, 12, (2, 3), stride=2), {"padding": "same", "stride": 1, "dilation": 3}),
    "valid": (nn.Conv2d(8, 12, 3, padding=1), {"padding": "valid"}),
    "parent with same": (nn.Conv2d(8, 12, (4, 3), padding="same"), {}),
    "depthwise": (nn.Conv2d(8, 16, 3, padding=1, groups=8), {}),
    "1x1": (nn.Conv2d(8, 24, 1), {"spatial": None}),
    "bias": (nn.Conv2d(8, 12, 3), {"bias": True}),
    "reflect": (nn.Conv2d(8, 12, 3, padding=(2, 1), padding_mode="reflect"), {}),
    "replicate": (nn.Conv2d(8, 12, (2, 3), stride=2, padding=1), {"padding_mode": "replicate"}),
    "circular same": (nn.Conv2d(8, 12, (2, 4)), {"padding_mode": "circular", "padding": "same"}),
    "zeros over reflect": (nn.Conv2d(8, 12, 3, padding=1, padding_mode="reflect"), {"padding_mode": "zeros"}),
    "valid reflect": (nn.Conv2d(8, 12, 3, padding="valid", padding_mode="reflect"), {}),
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_arguments_of_conv2d(name, mode):
    parent, options = GEOMETRIES[name]
    child = child_of(parent, **options).train(mode == "train")
    assert_formula(child, torch.randn(3, 8, 7, 9, dtype=torch.float64))
    assert (child.bias is not None) == options.get("bias", False)


@pytest.mark.parametrize("layout", IMAGES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_input_of_any_layout(layout, mode):
    child = child_of(nn.Conv2d(8, 12, 3, padding=1)).train(mode == "train")
    assert_formula(child, IMAGES[layout](torch.randn(3, 8, 6, 5, dtype=torch.float64)))


def test_output_takes_the_memory_format_of_the_input():
    child = child_of(nn.Conv2d(8, 12, 3, padding=1)).to(torch.float64).eval()
    child.parent.to(memory_format=torch.channels_last)
    input = torch.randn(3, 8, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        assert child(input).is_contiguous()
        last = child(input.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dynamic", [False, True], ids=["published", "dynamic"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_dtypes(device, mode, dynamic, dtype):
    options = {"filter": "dynamic", "spatial": "dynamic"} if dynamic else {}
    child = child_of(nn.Conv2d(8, 16, 3, padding=1), bias=True, **options).train(mode == "train")
    rounded = in_dtype(child, dtype, device)
    input = torch.randn(3, 8, 6, 5).to(device, dtype)
    low = plain_dtype(dtype, device)
    with torch.no_grad():
        truth = plain_layers.child(in_dtype(rounded, torch.float64), input.cpu().double())
        plain = plain_layers.child(in_dtype(rounded, low, device), input.to(low))
        output = rounded(input)
    assert output.dtype == dtype
    assert_within([output], [Truth("output", truth, 50.0, math.inf)], [[plain]])


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_autocast(low, mode):
    child = child_of(nn.Conv2d(8, 12, 3, padding=1), bias=True).train(mode == "train")
    child.float(), child.parent.float()
    input = torch.randn(3, 8, 6, 5)
    with torch.no_grad():
        expected = plain_layers.child(child, input)
        with torch.autocast("cpu", low):
            output = child(input)
    assert output.dtype == low
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.2)


def test_empty_batch():
    child = ChildConv2d(nn.Conv2d(8, 12, 3, padding=1))
    child(torch.empty(0, 8, 5, 5)).sum().backward()
    with torch.no_grad():
        assert child.eval()(torch.empty(0, 8, 5, 5)).shape == (0, 12, 5, 5)


def test_starts_as_the_gated_parent():
    parent = nn.Conv2d(8, 12, 3, padding=1, bias=False)
    child, input = ChildConv2d(parent).eval(), torch.randn(3, 8, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(child(input), parent(input * child.adapter.se(input)[..., None, None]))


def test_bias_starts_as_in_conv2d():
    bias = ChildConv2d(nn.Conv2d(8, 400, 3, groups=2), bias=True).bias
    assert 0.15 < bias.abs().max() <= 1 / 6  # fan-in 4 * 9


def test_device_and_dtype_of_the_parent():
    child = ChildConv2d(nn.Conv2d(8, 12, 3, dtype=torch.bfloat16, device="meta"), bias=True, spatial="dynamic")
    assert {(p.dtype, p.device.type) for p in child.parameters()} == {(torch.bfloat16, "meta")}
    assert ChildConv2d(nn.Conv2d(8, 12, 3), dtype=torch.float64).adapter.filter_attention.dtype == torch.float64


def test_repr():
    parent = nn.Conv2d(8, 12, 3, padding="same", dilation=2)
    assert repr(ChildConv2d(parent)).splitlines()[1].strip() == (
        "8, 12, kernel_size=(3, 3), stride=(1, 1), padding='same', dilation=(2, 2), bias=False"
    )


INPUTS = [
    (torch.zeros(8, 5, 5), ValueError, r"input must be 4-D \[N, 8, H, W\], got 3-D \[8, 5, 5\]"),
    (torch.zeros(2, 7, 5, 5), ValueError, r"input must have 8 channels, got 7 in \[2, 7, 5, 5\]"),
    (torch.zeros(2, 8, 5, 5).double(), TypeError, r".* weight must have the dtype of input \(float64\), got float32"),
    (torch.zeros(2, 8, 5, 5).int(), TypeError, "input must be float64, .*, got int32"),
    (torch.zeros(2, 8, 5, 5, device="meta"), ValueError, r".* weight must be on the device of input \(meta\), got cpu"),
]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("input", "error", "sentence"), INPUTS, ids=[sentence for *_, sentence in INPUTS])
def test_bad_input(input, error, sentence, mode):
    child = ChildConv2d(nn.Conv2d(8, 12, 3)).train(mode == "train")
    with torch.no_grad(), pytest.raises(error, match=f"^ChildConv2d: {sentence}$"):
        child(input)


def test_kernel_larger_than_the_input():
    with pytest.raises(ValueError, match=r"the output would be empty: a kernel of \[3, 3\] .* \[2, 2\]"):
        ChildConv2d(nn.Conv2d(8, 12, 3))(torch.zeros(2, 8, 2, 2))


PARENT = nn.Conv2d(8, 12, 3)
ARGUMENTS = [
    ({"parent": nn.Linear(8, 12)}, TypeError, "parent must be a torch.nn.Conv2d, got Linear"),
    ({"parent": ChildConv2d(PARENT)}, TypeError, "parent must be a torch.nn.Conv2d, got ChildConv2d"),
    ({"parent": nn.ConvTranspose2d(8, 12, 3)}, TypeError, "parent must be a torch.nn.Conv2d, got ConvTranspose2d"),
    ({"stride": 0}, ValueError, r"stride must be at least 1, got \[0, 0\]"),
    ({"stride": (1, -2)}, ValueError, r"stride must be at least 1, got \[1, -2\]"),
    ({"stride": (1, 2, 3)}, ValueError, r"stride must have 2 values \(height, width\), got 3"),
    ({"stride": 1.5}, TypeError, r"stride must be an int or a pair of ints, got 1.5"),
    ({"dilation": 0}, ValueError, r"dilation must be at least 1, got \[0, 0\]"),
    ({"padding": -1}, ValueError, r"padding must be at least 0, got \[-1, -1\]"),
    ({"padding": "full"}, ValueError, "padding must be ints, 'same' or 'valid', got 'full'"),
    ({"padding": "same", "stride": 2}, ValueError, r"padding='same' needs stride 1, got \(2, 2\)"),
    ({"padding_mode": "wrap"}, ValueError, "padding_mode must be one of .*, got 'wrap'"),
    ({"stride": True}, TypeError, r"stride must be an int or a pair of ints, got True"),
    ({"padding": (1, 2**70)}, ValueError, r"padding must be below 2\*\*63, got \[1, \d+\]"),
    ({"bias": "yes"}, TypeError, "bias must be True or False, got 'yes'"),
]


def test_integers_of_numpy():
    child = ChildConv2d(PARENT, stride=numpy.int64(2), padding=(numpy.int32(1), 2), hidden=numpy.int64(3))
    assert repr(child).splitlines()[1].strip().startswith("8, 12, kernel_size=(3, 3), stride=(2, 2), padding=(1, 2)")
    assert type(child.stride[0]) is type(child.padding[0]) is int


@pytest.mark.parametrize(("options", "error", "sentence"), ARGUMENTS, ids=[sentence for *_, sentence in ARGUMENTS])
def test_bad_arguments(options, error, sentence):
    with pytest.raises(error, match=f"^ChildConv2d: {sentence}$"):
        ChildConv2d(**{"parent": PARENT, **options})
