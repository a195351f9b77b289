"""modulated_conv2d with up=2 and down=2 against StyleGAN2-ADA's definition: zeros between the pixels, then the filter,
then a convolution with weights for each sample, then every second pixel; in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import modulated_up
from kerneldna_ops import use_backend
from kerneldna_ops.functional import modulated_conv2d
from kerneldna_ops.measure.time import Rounds
from support.exporters import EXPORTERS, assert_serves_every_size

pytestmark = pytest.mark.usefixtures("threads")

OUTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 2, 4, 1])) / 64
# As upfirdn2d.setup_filter gives them: separable or not, of an even or an odd length, not symmetric.
FILTERS = {
    "none": None,
    "even": torch.tensor([1.0, 3, 5, 1]) / 8,
    "odd": torch.tensor([1.0, 2, 4]) / 4,
    "one_tap": torch.tensor([0.5]),
    "2d": OUTER,
    "2d_uneven": OUTER[:3],
}
RESIZES = {"up": {"up": 2}, "down": {"down": 2}}
# name -> (x, weight, padding)
SHAPES = {
    "3x3": ((3, 5, 6, 4), (7, 5, 3, 3), 1),
    "1x1": ((2, 4, 3, 5), (3, 4, 1, 1), 0),
    "uneven": ((2, 3, 5, 6), (4, 3, 2, 5), (1, 2)),
    "much_padding": ((1, 2, 4, 3), (2, 2, 3, 3), 4),
    "no_padding": ((2, 2, 6, 7), (3, 2, 3, 4), 0),
}
every_filter = pytest.mark.parametrize("filter", FILTERS.values(), ids=FILTERS)
every_resize = pytest.mark.parametrize("resize", RESIZES.values(), ids=RESIZES)


def upfirdn(x, filter, sides, up=1, gain=1):
    """Its taps are those of a convolution; sides are (left, right, top, bottom)."""
    n, channels, height, width = x.shape
    apart = x.new_zeros(n, channels, height * up, width * up)
    apart[:, :, ::up, ::up] = x
    filter = torch.ones(1, 1) if filter is None else filter
    filter = (filter if filter.dim() == 2 else torch.outer(filter, filter)).to(x) * gain
    taps = filter.flip((0, 1)).expand(channels, 1, *filter.shape)
    return F.conv2d(F.pad(apart, sides), taps, groups=channels)


def resampled(x, conv, filter, padding, up=1, down=1):
    """conv2d_resample's definition, of a convolution with stride 1."""
    rows, columns = padding if isinstance(padding, tuple) else (padding, padding)
    fh, fw = (1, 1) if filter is None else (filter.shape[0], filter.shape[-1])
    sides = [columns, columns, rows, rows]
    for factor, shift in ((up, 1), (down, 0)):
        if factor > 1:
            extra = [(fw + factor - 1) // 2, (fw - factor) // 2, (fh + factor - 1) // 2, (fh - factor) // 2]
            if not shift:
                extra = [(fw - factor + 1) // 2, (fw - factor) // 2, (fh - factor + 1) // 2, (fh - factor) // 2]
            sides = [side + e for side, e in zip(sides, extra, strict=True)]
    y = conv(upfirdn(x, filter if up > 1 or down > 1 else None, sides, up, up**2))
    return y[:, :, ::down, ::down]


def published(x, weight, styles, demodulate=True, padding=0, filter=None, flip_weight=True, up=1, down=1):
    """fused_modconv=True: a weight for each sample."""
    weights = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    weights = weights if flip_weight else weights.flip((3, 4))
    samples = [
        resampled(x[n : n + 1], lambda x, w=w: F.conv2d(x, w), filter, padding, up, down) for n, w in enumerate(weights)
    ]
    return torch.cat(samples)


def not_fused(x, weight, styles, demodulate=True, padding=0, filter=None, flip_weight=True, up=1, down=1):
    """fused_modconv=False: what goes in and comes out is scaled."""
    energy = (weight[None] * styles[:, None, :, None, None]).square().sum((2, 3, 4))
    weight = weight if flip_weight else weight.flip((2, 3))
    y = resampled(x * styles[..., None, None], lambda x: F.conv2d(x, weight), filter, padding, up, down)
    return y * (energy + 1e-8).rsqrt()[..., None, None] if demodulate else y


def tensors(x=(2, 3, 4, 3), weight=(2, 3, 3, 3), dtype=torch.float64):
    made = torch.randn(x), torch.randn(weight), torch.randn(x[:2]) + 1
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@every_filter
@every_resize
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("flip_weight", [True, False], ids=["correlation", "convolution"])
def test_output_and_gradients(shape, resize, filter, flip_weight):
    *shapes, padding = shape
    inputs = tensors(*shapes)
    results = []
    for function in (published, not_fused):
        output = function(*inputs, True, padding, filter, flip_weight, **resize)
        results.append([output, *torch.autograd.grad(output.sin().sum(), inputs)])
    output = modulated_conv2d(*inputs, padding=padding, resample_filter=filter, flip_weight=flip_weight, **resize)
    found = [output, *torch.autograd.grad(output.sin().sum(), inputs)]
    for expected in results:
        close(found, expected)


@every_resize
def test_without_demodulation(resize):
    inputs = tensors()
    found = modulated_conv2d(*inputs, False, 1, resample_filter=OUTER, **resize)
    close(found, published(*inputs, False, 1, OUTER, **resize))


def test_a_convolution_of_the_same_size():
    inputs = tensors()
    close(modulated_conv2d(*inputs, padding=1, flip_weight=False), published(*inputs, padding=1, flip_weight=False))


@every_resize
@pytest.mark.parametrize("filter", [OUTER, FILTERS["odd"]], ids=["2d", "odd"])
def test_gradients_of_gradients(resize, filter):
    inputs = tensors(x=(2, 2, 3, 2), weight=(2, 2, 3, 2))

    def function(*inputs):
        return modulated_conv2d(*inputs, padding=1, resample_filter=filter, **resize)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_up_is_the_transposed_convolution_and_one_pass_of_the_filter(ran):
    """Of the size of x, not of the result."""
    inputs = tensors()
    with use_backend("composite"):
        output = modulated_conv2d(*inputs, padding=1, resample_filter=OUTER, up=2)
        assert ran == ["composite backward"]
        output.sum().backward()


@every_resize
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_dtypes_and_layouts(resize, dtype, memory_format):
    x, weight, styles = (tensor.detach() for tensor in tensors((3, 8, 6, 4), (5, 8, 3, 3), torch.float32))
    x = x.to(dtype).contiguous(memory_format=memory_format)
    output = modulated_conv2d(x, weight, styles, padding=1, resample_filter=OUTER, **resize)
    assert output.dtype == dtype
    assert output.is_contiguous(memory_format=memory_format)
    truth = published(x.double(), weight.double(), styles.double(), True, 1, OUTER, **resize)
    error = (output.double() - truth).abs().max() / truth.abs().max()
    assert error < 4 * torch.finfo(dtype).eps


@every_resize
def test_autocast_is_a_cast_of_x(resize):
    x, weight, styles = (tensor.detach() for tensor in tensors(dtype=torch.float32))
    more = {"padding": 1, "resample_filter": OUTER, **resize}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = modulated_conv2d(x, weight, styles, **more)
    torch.testing.assert_close(output, modulated_conv2d(x.bfloat16(), weight, styles, **more), rtol=0, atol=0)


@every_resize
def test_compiled_without_a_break(resize):
    torch._dynamo.reset()
    inputs = tensors(dtype=torch.float32)
    compiled = torch.compile(modulated_conv2d, fullgraph=True, dynamic=True, backend="aot_eager")
    found = []
    for function in (compiled, modulated_conv2d):
        output = function(*inputs, padding=1, resample_filter=OUTER, **resize)
        found.append([output, *torch.autograd.grad(output.sin().sum(), inputs)])
    torch.testing.assert_close(*found)


@every_resize
def test_vmap(resize):
    x, weight, styles = (tensor.detach() for tensor in tensors())
    each = torch.func.vmap(
        lambda x, s: modulated_conv2d(x[None], weight, s[None], padding=1, resample_filter=OUTER, **resize)[0]
    )
    close(each(x, styles), published(x, weight, styles, True, 1, OUTER, **resize))


class Network(torch.nn.Module):
    """Layers that are up, of a mixture of kernels too, down and neither."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shapes = (2, 6, 4, 3, 3), (5, 6, 3, 3), (4, 5, 1, 1)
        self.weights = torch.nn.ParameterList(torch.randn(shape, generator=generator) for shape in shapes)
        self.register_buffer("filter", OUTER)

    def forward(self, x):
        styles = x.mean((2, 3)) + 1
        wide = torch.cat([styles, styles[:, :2]], 1)
        mixed, down, up = self.weights
        shares = styles[:, :2].softmax(1)
        x = modulated_conv2d(
            x, mixed, styles, padding=1, up=2, resample_filter=self.filter, kernel_attention=shares, flip_weight=False
        )
        x = modulated_conv2d(x.relu(), down, wide, padding=1, down=2, resample_filter=self.filter[0], input_gain=0.5)
        return modulated_conv2d(x.relu(), up, wide[:, :5], up=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("export", EXPORTERS)
def test_export(export):
    """One file serves every batch and image size, in PyTorch's or ONNX's own operators."""
    assert_serves_every_size(export, Network().eval())


def test_torch_fx():
    traced = torch.fx.symbolic_trace(Network())
    called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert called.count(modulated_conv2d) == 3
    for size in (3, 5):
        x = torch.randn(2, 4, size, size)
        torch.testing.assert_close(traced(x), Network()(x))


def test_no_samples():
    for resize in RESIZES.values():
        x, weight, styles = tensors(x=(0, 3, 4, 3))
        output = modulated_conv2d(x, weight, styles, padding=1, resample_filter=OUTER, **resize)
        assert output.shape == (0, 2, *((8, 6) if resize == {"up": 2} else (2, 1)))
        assert (torch.autograd.grad(output.sum(), weight)[0] == 0).all()


X, WEIGHT, STYLES = torch.ones(2, 4, 5, 3), torch.ones(3, 4, 3, 3), torch.ones(2, 4)
FILTER = "resample_filter must be"
BAD = {
    "up": ({"up": 3}, ValueError, "up must be 1 or 2, got 3"),
    "up_none": ({"up": None}, TypeError, "up must be 1 or 2, got None"),
    "down": ({"down": 4}, ValueError, "down must be 1 or 2, got 4"),
    "up_float": ({"up": torch.tensor(2.0)}, TypeError, "up must be 1 or 2, got tensor(2.)"),
    "up_array": ({"up": np.array([2, 1])}, TypeError, "up must be 1 or 2, got array([2, 1])"),
    "demodulate": ({"demodulate": "2"}, TypeError, "demodulate must be True or False, got '2'"),
    "demodulate_none": ({"demodulate": None}, TypeError, "demodulate must be True or False, got None"),
    "flip_weight": ({"flip_weight": 1}, TypeError, "flip_weight must be True or False, got 1"),
    "padding_huge": (
        {"padding": 2**62, "up": 2},
        ValueError,
        f"padding must be at most 16777216, got [{2**62}, {2**62}]",
    ),
    "down_bool": ({"down": True}, TypeError, "down must be 1 or 2, got True"),
    "both": ({"up": 2, "down": 2}, ValueError, "one of up and down must be 1, got 2 for both"),
    "filter_list": ({"resample_filter": [1, 2]}, TypeError, f"{FILTER} a tensor, got list"),
    "filter_3d": ({"resample_filter": OUTER[None]}, ValueError, f"{FILTER} [taps] or [rows, columns], got [1, 4, 4]"),
    "filter_empty": ({"resample_filter": OUTER[:0]}, ValueError, f"{FILTER} [taps] or [rows, columns], got [0, 4]"),
    "filter_int": ({"resample_filter": OUTER.int()}, TypeError, f"{FILTER} float32 where x is float32, got int32"),
    "filter_dtype": (
        {"x": X.half(), "resample_filter": OUTER.double()},
        TypeError,
        f"{FILTER} float16 or float32 where x is float16, got float64",
    ),
    "filter_device": (
        {"resample_filter": OUTER.to("meta")},
        ValueError,
        f"{FILTER} on the device of x (cpu), got meta",
    ),
    "padding_name": (
        {"padding": "same", "up": 2},
        ValueError,
        "padding must be an int or a pair of ints where up or down is 2, got 'same'",
    ),
    "padding_negative": ({"padding": -1, "down": 2}, ValueError, "padding must be at least 0, got [-1, -1]"),
    "padding_sides": (
        {"padding": (1, 1, 1, 1), "up": 2},
        ValueError,
        "padding must have 2 values (height, width), got 4",
    ),
    "padding_float": ({"padding": 0.5, "up": 2}, TypeError, "padding must be an int or a pair of ints, got 0.5"),
}


@pytest.mark.parametrize(("change", "kind", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(change, kind, sentence):
    with pytest.raises(kind) as caught:
        modulated_conv2d(**({"x": X, "weight": WEIGHT, "styles": STYLES} | change))
    assert str(caught.value).startswith(f"modulated_conv2d: {sentence}")


@every_resize
def test_meta_tensors_give_the_shape(resize):
    more = {"padding": 1, "resample_filter": OUTER.to("meta"), **resize}
    output = modulated_conv2d(X.to("meta"), WEIGHT.to("meta"), STYLES.to("meta"), **more)
    assert output.shape == published(X, WEIGHT, STYLES, True, 1, OUTER, **resize).shape


@pytest.mark.parametrize("mode", modulated_up.MODES)
def test_what_the_benchmark_times_agrees(mode, monkeypatch):
    """measure() itself compares the two before it times them."""
    monkeypatch.setattr(modulated_up, "alternate", lambda calls, *_, **__: Rounds({f: [2.0] for f in calls}, False))
    row = modulated_up.row(mode, 2, 8, 5, modulated_up.measure(mode, batch=2, channels=8, size=5, rounds=1))
    table = modulated_up.table([row], {"cpu": "a processor"})
    assert f"| {mode}, 8@5, batch 2, disturbed | 2000.0 | 1.00 [1.00, 1.00] |" in table
    monkeypatch.setitem(modulated_up.FORMS, "op", lambda *inputs: 1.01 * modulated_up.op(*inputs))
    with pytest.raises(AssertionError, match=f"^{mode} 8@5 b2: off by"):
        modulated_up.measure(mode, batch=2, channels=8, size=5, rounds=1)
