"""StyleGAN's modulated convolution against its published formula: weights for each sample, a grouped convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.func import grad, vmap

from benchmarks import modulated
from kerneldna_ops import _modulation, use_backend
from kerneldna_ops.functional import modulated_conv2d
from kerneldna_ops.measure.time import Rounds

pytestmark = pytest.mark.usefixtures("threads")

SHAPES = {"3x3": ((3, 5, 6, 4), (7, 5, 3, 3), 1), "1x1": ((2, 4, 3, 5), (3, 4, 1, 1), 0)}
every_shape = pytest.mark.parametrize(("x", "weight", "padding"), SHAPES.values(), ids=SHAPES)
with_and_without_demodulation = pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "modulated"])


def published(x, weight, styles, demodulate=True, padding=0):
    """Equations 1 to 3 of arXiv 1912.04958, as they stand."""
    batch = len(x)
    weights = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weights = weights / (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), padding=padding, groups=batch)
    return y.view(batch, -1, *y.shape[2:])


def tensors(x=(2, 4, 5, 3), weight=(3, 4, 3, 3), dtype=torch.float64):
    made = torch.randn(x), torch.randn(weight), torch.randn(x[:2]) + 1
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def error(result, truth):
    return ((result.double() - truth).abs().max() / truth.abs().max()).item()


@every_shape
@with_and_without_demodulation
def test_output_and_gradients(x, weight, padding, demodulate):
    inputs = tensors(x, weight)
    results = []
    for function in (modulated_conv2d, published):
        output = function(*inputs, demodulate, padding)
        results.append([output, *torch.autograd.grad(output.sin().sum(), inputs)])
    torch.testing.assert_close(*results)


def test_epsilon_is_the_published_one():
    x, weight, styles = tensors()
    small = styles.detach() * 1e-5
    torch.testing.assert_close(modulated_conv2d(x, weight, small), published(x, weight, small))


@with_and_without_demodulation
def test_gradients_of_gradients(demodulate):
    inputs = tensors(x=(2, 3, 3, 2), weight=(2, 3, 2, 2))
    assert torch.autograd.gradcheck(lambda *t: modulated_conv2d(*t, demodulate), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: modulated_conv2d(*t, demodulate), inputs)


def r1_penalty(x, styles, y):
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return gradient.square().sum()


def path_length_penalty(x, styles, y):
    noise = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((y * noise).sum(), styles, create_graph=True)
    return gradient.norm(dim=1).square().mean()


@pytest.mark.parametrize("penalty", [r1_penalty, path_length_penalty])
def test_regularisation_of_two_layers(penalty):
    """The gradient of the penalty on a gradient, through two modulated convolutions with a nonlinearity between."""
    x, first, styles = tensors()
    second = torch.randn(4, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    found = []
    for function in (modulated_conv2d, published):
        hidden = F.softplus(function(x, first, styles, padding=1))
        y = function(hidden, second, styles[:, :3]).square()
        found.append(torch.autograd.grad(penalty(x, styles, y), (x, first, second, styles)))
    torch.testing.assert_close(*found)


def test_is_one_call_of_the_op(ran):
    x, weight, styles = tensors()
    with use_backend("composite"):
        modulated_conv2d(x, weight, styles, padding=1).sum().backward()
    assert ran == ["composite", "composite backward"]


@pytest.mark.parametrize("master", [torch.float32, torch.float16], ids=["weights_float32", "weights_float16"])
def test_float16_with_huge_styles(master):
    """Squares of these do not fit into float16, nor do the products in float32 of weights and styles."""
    x, weight, styles = tensors(x=(3, 32, 5, 4), weight=(6, 32, 3, 3), dtype=torch.float32)
    largest = 6e4 if master == torch.float16 else 1e30
    weight, styles = ((t / t.abs().max() * largest).detach().to(master).requires_grad_() for t in (weight, styles))
    inputs = [x.detach().half().requires_grad_(), weight, styles]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    output, truth = modulated_conv2d(*inputs, padding=1), published(*doubles, padding=1)
    assert output.dtype == torch.float16
    assert error(output, truth) < 4e-3
    grads = torch.autograd.grad(output.float().sin().sum(), inputs[0])
    assert error(grads[0], torch.autograd.grad(truth.sin().sum(), doubles[0])[0]) < 8e-3


def test_gradients_in_float16():
    x, weight, styles = tensors(x=(3, 32, 5, 4), weight=(6, 32, 3, 3), dtype=torch.float32)
    inputs = [x.detach().half().requires_grad_(), weight, styles]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    grads = torch.autograd.grad(modulated_conv2d(*inputs, padding=1).float().sin().sum(), inputs)
    truths = torch.autograd.grad(published(*doubles, padding=1).sin().sum(), doubles)
    assert [grad.dtype for grad in grads] == [torch.float16, torch.float32, torch.float32]
    for gradient, truth in zip(grads, truths, strict=True):
        assert error(gradient, truth) < 1e-2


@pytest.mark.parametrize("of_weight", [1e-20, 1, 1e20, 3e38])
@pytest.mark.parametrize("of_styles", [1e-18, 1, 1e18, 3e38])
def test_float32_of_any_size(of_weight, of_styles):
    """Whose squares float32 does not hold; epsilon counts as in the published formula."""
    x, weight, styles = (tensor.detach() for tensor in tensors(dtype=torch.float32))
    weight, styles = weight / weight.abs().max() * of_weight, styles / styles.abs().max() * of_styles
    truth = published(x.double(), weight.double(), styles.double(), padding=1)
    assert error(modulated_conv2d(x, weight, styles, padding=1), truth) < 1e-5


def test_fake_tensors_have_no_values():
    """Outside of their mode too, where nothing but their class tells."""
    mode = FakeTensorMode()
    x, weight, styles = (mode.from_tensor(tensor.detach()) for tensor in tensors(dtype=torch.float32))
    assert modulated_conv2d(x, weight, styles, padding=1).shape == (*x.shape[:1], len(weight), *x.shape[2:])


def test_styles_of_zero_give_zero():
    x, weight, styles = (tensor.detach() for tensor in tensors(dtype=torch.float32))
    styles[0] = 0
    weight[1] = 0
    for dtype in (torch.float32, torch.float16):
        inputs = [x.to(dtype), weight, styles.clone().requires_grad_()]
        output = modulated_conv2d(*inputs)
        assert (output[0] == 0).all()
        assert (output[:, 1] == 0).all()
        assert torch.autograd.grad(output.float().sum(), inputs[2])[0].isfinite().all()


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["by_hand", "autocast"])
def test_demodulation_is_summed_in_float32(low, autocast):
    """It is off by its own rounding to the low precision, and by no more."""
    x, weight, styles = (tensor.detach() for tensor in tensors((4, 64, 1, 1), (32, 64, 3, 3), torch.float32))
    with torch.autocast("cpu", dtype=low, enabled=autocast):
        weight_of_op, c, f, _ = _modulation.attentions(x if autocast else x.to(low), weight, styles, True, autocast)
    assert weight_of_op.dtype == c.dtype == f.dtype == low
    scale = (weight.double().square().sum((1, 2, 3)) / weight_of_op.double().square().sum((1, 2, 3))).sqrt()
    scale = scale * (styles.double().square().sum(1, keepdim=True) / c.double().square().sum(1, keepdim=True)).sqrt()
    energy = styles.double().square() @ weight.double().square().sum((2, 3)).T
    off = (f.double() / (energy.rsqrt() * scale) - 1).abs().max()
    assert off < 0.51 * torch.finfo(low).eps


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_a_cast_of_x(low):
    x, weight, styles = (tensor.detach() for tensor in tensors(dtype=torch.float32))
    styles = styles * (1e5 if low == torch.float16 else 1)
    with torch.autocast("cpu", dtype=low):
        output = modulated_conv2d(x, weight, styles, padding=1)
    torch.testing.assert_close(output, modulated_conv2d(x.to(low), weight, styles, padding=1), rtol=0, atol=0)


def test_vmap_and_gradients_of_each_sample():
    x, weight, styles = (tensor.detach() for tensor in tensors())

    def loss(function):
        return grad(lambda w, x, s: function(x[None], w, s[None], padding=1).sin().sum())

    per_sample = vmap(loss(modulated_conv2d), (None, 0, 0))(weight, x, styles)
    expected = [loss(published)(weight, x[n], styles[n]) for n in range(len(x))]
    torch.testing.assert_close(per_sample, torch.stack(expected))


def test_compiled_without_a_break():
    torch._dynamo.reset()
    x, weight, styles = tensors(dtype=torch.float32)
    inputs = [x.detach().half().requires_grad_(), weight, styles]
    compiled = torch.compile(modulated_conv2d, fullgraph=True, dynamic=True, backend="aot_eager")
    found = []
    for function in (compiled, modulated_conv2d):
        output = function(*inputs, padding=1)
        found.append([output, *torch.autograd.grad(output.float().sin().sum(), inputs)])
    torch.testing.assert_close(*found)


def test_no_samples():
    x, weight, styles = tensors(x=(0, 4, 5, 3))
    output = modulated_conv2d(x, weight, styles, padding=1)
    assert output.shape == (0, 3, 5, 3)
    assert (torch.autograd.grad(output.sum(), weight)[0] == 0).all()
    assert modulated_conv2d(x.half(), weight.float(), styles.float()).shape == (0, 3, 3, 1)


X, WEIGHT, STYLES = torch.ones(2, 4, 5, 3), torch.ones(3, 4, 3, 3), torch.ones(2, 4)
BAD = {
    "x_list": ({"x": [1]}, TypeError, "x must be a tensor, got list"),
    "x_3d": ({"x": X[0]}, ValueError, "x must be 4-D [N, C_in, H, W], got 3-D [4, 5, 3]"),
    "x_int": ({"x": X.int()}, TypeError, "x must be float64, float32, float16 or bfloat16, got int32"),
    "weight_5d": ({"weight": WEIGHT[None]}, ValueError, "weight must be 4-D [C_out, C_in, kh, kw], got 5-D"),
    "weight_channels": (
        {"weight": WEIGHT[:, :2]},
        ValueError,
        "weight must have the 4 channels of x, got 2 in [3, 2, 3, 3]",
    ),
    "weight_dtype": (
        {"x": X.half(), "weight": WEIGHT.bfloat16()},
        TypeError,
        "weight must be float16 or float32 where x is float16, got bfloat16",
    ),
    "no_filters": (
        {"weight": WEIGHT[:0]},
        ValueError,
        "only the batch of x may be empty, got x [2, 4, 5, 3] and weight [0, 4, 3, 3]",
    ),
    "styles_none": ({"styles": None}, TypeError, "styles must be a tensor, got NoneType"),
    "styles_static": ({"styles": STYLES[0]}, ValueError, "styles must have shape [2, 4], got [4]"),
    "styles_of_filters": ({"styles": torch.ones(2, 3)}, ValueError, "styles must have shape [2, 4], got [2, 3]"),
    "styles_dtype": (
        {"styles": STYLES.double()},
        TypeError,
        "styles must be float32 where x is float32, got float64",
    ),
    "styles_device": ({"styles": STYLES.to("meta")}, ValueError, "styles must be on the device of x (cpu), got meta"),
}


@pytest.mark.parametrize(("change", "kind", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(change, kind, sentence):
    with pytest.raises(kind) as caught:
        modulated_conv2d(**({"x": X, "weight": WEIGHT, "styles": STYLES} | change))
    assert str(caught.value).startswith(f"modulated_conv2d: {sentence}")


def test_the_convolution_checks_the_rest():
    with pytest.raises(ValueError, match=r"^conv2d: padding must be an int, a pair of ints, 'same' or 'valid'"):
        modulated_conv2d(X, WEIGHT, STYLES, padding="full")
    with pytest.raises(ValueError, match=r"^conv2d: the output would be empty"):
        modulated_conv2d(X, torch.ones(3, 4, 7, 7), STYLES)


def test_meta_tensors_give_the_shape():
    output = modulated_conv2d(X.to("meta"), WEIGHT.to("meta"), STYLES.to("meta"), padding=1)
    assert output.shape == (2, 3, 5, 3)


@pytest.mark.parametrize("mode", modulated.MODES)
def test_what_the_benchmark_times_agrees(mode, monkeypatch):
    """measure() itself compares the op and both published forms before it times them."""
    monkeypatch.setattr(modulated, "CHANNELS", 8)
    monkeypatch.setattr(modulated, "alternate", lambda calls, *_, **__: Rounds({form: [2.0] for form in calls}, False))
    row = modulated.row(mode, 2, 5, modulated.measure(mode, batch=2, size=5, rounds=1))
    assert f"| {mode}, 8@5, batch 2, disturbed | 2000.0 | 1.00 [1.00, 1.00] |" in modulated.table([row], {})
    monkeypatch.setitem(modulated.FORMS, "op", lambda *inputs: 1.01 * modulated.op(*inputs))
    with pytest.raises(AssertionError, match=f"^op, {mode} 5 b2: off by"):
        modulated.measure(mode, batch=2, size=5, rounds=1)
