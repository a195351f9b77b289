"""modulated_conv2d with StyleGAN3's input_gain and with GigaGAN's mixture of kernels, against their formulas with a
weight for each sample, in float64."""

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops import _modulation
from kerneldna_ops.functional import modulated_conv2d

pytestmark = pytest.mark.usefixtures("threads")

with_and_without_demodulation = pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "modulated"])
every_size = pytest.mark.parametrize("resize", [{}, {"up": 2}, {"down": 2}], ids=["same", "up", "down"])


def convolved(x, weights, padding=0, up=1, down=1):
    """Each sample with its own weight; without a filter up=2 is zeros between the pixels, times 4."""
    samples = []
    for image, weight in zip(x[:, None], weights, strict=True):
        if up == 2:
            apart = image.new_zeros(1, len(image[0]), 2 * image.shape[2], 2 * image.shape[3])
            apart[:, :, ::2, ::2] = 4 * image
            image = F.pad(apart, (1, -1, 1, -1))
        if down == 2:
            image = F.pad(image, (padding, padding - 1) * 2)
            samples.append(F.conv2d(image, weight, stride=2))
        else:
            samples.append(F.conv2d(image, weight, padding=padding))
    return torch.cat(samples)


def gigagan(x, weight, styles, shares, demodulate=True, padding=0, **resize):
    """Adaptive kernel selection of arXiv 2303.05511, where styles are mod + 1 and shares softmax(kernel_mod)."""
    weights = torch.einsum("nk,koiuv->noiuv", shares, weight) * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * weights.square().sum((2, 3, 4), keepdim=True).clamp(min=1e-8).rsqrt()
    return convolved(x, weights, padding, **resize)


def stylegan3(x, weight, styles, demodulate=True, padding=0, input_gain=None):
    """modulated_conv2d of arXiv 2106.12423: what it normalises before, and its gain."""
    if demodulate:
        weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        styles = styles / styles.square().mean().sqrt()
    weights = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weights = weights / (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    if input_gain is not None:
        weights = (
            weights * torch.as_tensor(input_gain, dtype=x.dtype).expand(len(x), x.shape[1])[:, None, :, None, None]
        )
    return convolved(x, weights, padding)


def tensors(x=(3, 4, 5, 6), weight=(3, 5, 4, 3, 3), dtype=torch.float64):
    logits = torch.randn(x[0], weight[0], dtype=torch.float64)
    made = torch.randn(x), torch.randn(weight), torch.randn(x[:2]) + 1, logits.softmax(1)
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def ours(x, weight, styles, shares, demodulate=True, padding=0, **more):
    return modulated_conv2d(x, weight, styles, demodulate, padding, kernel_attention=shares, **more)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def error(result, truth):
    return ((result.double() - truth).abs().max() / truth.abs().max()).item()


@every_size
@with_and_without_demodulation
@pytest.mark.parametrize("kernels", [1, 2, 4])
def test_mixture_and_its_gradients(kernels, demodulate, resize):
    inputs = tensors(weight=(kernels, 5, 4, 3, 3))
    results = []
    for function in (ours, gigagan):
        output = function(*inputs, demodulate, 1, **resize)
        results.append([output, *torch.autograd.grad(output.sin().sum(), inputs)])
    close(*results)


def test_shares_need_not_be_a_softmax():
    x, weight, styles, shares = tensors()
    shares = (shares - 0.5).detach()
    close(ours(x, weight, styles, shares[..., None, None]), gigagan(x, weight, styles, shares))


@pytest.mark.parametrize("size", [1e-6, 1e-4])
def test_energy_is_clamped_at_1e_minus_8(size):
    """Below, and as StyleGAN's sum it would be far off, above."""
    x, weight, styles, shares = tensors(dtype=torch.float64)
    close(ours(x, weight, size * styles, shares) / size, gigagan(x, weight, size * styles, shares) / size)
    found = ours(x.float(), weight.float(), size * styles.float(), shares.float())
    assert error(found, gigagan(x, weight, size * styles, shares)) < 1e-5


def test_kernels_that_cancel():
    """The energy is a difference then, which may come out below zero."""
    x, weight, styles, _ = tensors(dtype=torch.float32)
    weight = weight[:1].repeat(2, 1, 1, 1, 1).detach().requires_grad_()
    shares = torch.tensor([[0.3, -0.3]]).repeat(3, 1)
    output = ours(x, weight, styles, shares)
    assert output.abs().max() < 1e-2
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.sum(), (x, weight, styles)))


@pytest.mark.parametrize("resize", [{}, {"up": 2}], ids=["same", "up"])
def test_gradients_of_gradients(resize):
    inputs = tensors(x=(2, 2, 3, 2), weight=(2, 2, 2, 2, 2))
    assert torch.autograd.gradcheck(lambda *t: ours(*t, padding=1, **resize), inputs)
    assert torch.autograd.gradgradcheck(lambda *t: ours(*t, padding=1, **resize), inputs)


@pytest.mark.parametrize("of_weight", [1e-15, 1, 1e8, 3e38])
@pytest.mark.parametrize("of_styles", [1e-12, 1, 1e8, 3e38])
@pytest.mark.parametrize("of_shares", [1e-9, 1, 1e8])
def test_float32_of_any_size(of_weight, of_styles, of_shares):
    """Whose squares, and products of squares, float32 does not hold."""
    made = [tensor.detach() for tensor in tensors(dtype=torch.float32)]
    sizes = (None, of_weight, of_styles, of_shares)
    inputs = [t if size is None else t / t.abs().max() * size for t, size in zip(made, sizes, strict=True)]
    truth = gigagan(*(tensor.double() for tensor in inputs), padding=1)
    assert error(ours(*inputs, padding=1), truth) < 1e-5


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["by_hand", "autocast"])
def test_low_precision(low, autocast):
    """Squares of these styles and weights do not fit into float16."""
    x, weight, styles, shares = (t.detach() for t in tensors((3, 32, 5, 4), (4, 6, 32, 3, 3), torch.float32))
    weight, styles = weight * 1e4, styles * 1e5
    truth = gigagan(x.double(), weight.double(), styles.double(), shares.double(), padding=1)
    with torch.autocast("cpu", dtype=low, enabled=autocast):
        output = ours(x if autocast else x.to(low), weight, styles, shares, padding=1, input_gain=0.5)
    assert output.dtype == low
    assert error(2 * output, truth) < 8 * torch.finfo(low).eps
    with torch.autocast("cpu", dtype=low, enabled=autocast):
        _, c, f, a = _modulation.attentions(x if autocast else x.to(low), weight, styles, True, autocast, None, shares)
    assert c.dtype == f.dtype == a.dtype == low


def test_compiled_without_a_break():
    torch._dynamo.reset()
    inputs = tensors(dtype=torch.float32)
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend="aot_eager")
    found = []
    for function in (compiled, ours):
        output = function(*inputs, padding=1, input_gain=inputs[2][0].detach())
        found.append([output, *torch.autograd.grad(output.sin().sum(), inputs)])
    torch.testing.assert_close(*found)


def test_vmap():
    x, weight, styles, shares = (tensor.detach() for tensor in tensors())
    each = torch.func.vmap(lambda x, s, a: ours(x[None], weight, s[None], a[None], padding=1)[0])
    close(each(x, styles, shares), gigagan(x, weight, styles, shares, padding=1))


def test_no_samples():
    inputs = tensors(x=(0, 4, 5, 6))
    output = ours(*inputs)
    assert output.shape == (0, 5, 3, 4)
    assert (torch.autograd.grad(output.sum(), inputs[1])[0] == 0).all()


GAINS = {"number": 0.7, "whole": 2, "one": torch.tensor(0.7), "static": torch.rand(4), "per_sample": torch.rand(3, 4)}


@with_and_without_demodulation
@pytest.mark.parametrize("gain", GAINS.values(), ids=GAINS)
def test_input_gain(gain, demodulate):
    """Of weight and styles as StyleGAN3 has normalised them; without, only what epsilon is added to differs."""
    x, weight, styles, _ = tensors(weight=(1, 5, 4, 3, 3))
    gain = gain.double().requires_grad_() if isinstance(gain, torch.Tensor) else gain
    weight = weight[0]
    truth = stylegan3(x, weight, styles, demodulate, 1, gain)
    normal = (weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt(), styles / styles.square().mean().sqrt())
    found = modulated_conv2d(x, *(normal if demodulate else (weight, styles)), demodulate, 1, input_gain=gain)
    close(found, truth)
    torch.testing.assert_close(modulated_conv2d(x, weight, styles, demodulate, 1, input_gain=gain), truth)
    if isinstance(gain, torch.Tensor):
        close(*(torch.autograd.grad(y.sin().sum(), (x, styles, gain)) for y in (found, truth)))


X, WEIGHT, STYLES = torch.ones(2, 4, 5, 3), torch.ones(3, 4, 3, 3), torch.ones(2, 4)
MIXTURE = {"weight": torch.ones(5, 3, 4, 3, 3), "kernel_attention": torch.ones(2, 5)}
GAIN, SHARES = "input_gain must be", "kernel_attention must"
BAD = {
    "gain_str": ({"input_gain": "2"}, TypeError, f"{GAIN} a number or a tensor, got str"),
    "gain_bool": ({"input_gain": True}, TypeError, f"{GAIN} a number or a tensor, got bool"),
    "gain_shape": (
        {"input_gain": torch.ones(2)},
        ValueError,
        f"{GAIN} a number or have shape [4] or [2, 4], got [2]",
    ),
    "gain_dtype": (
        {"input_gain": torch.ones(4).double()},
        TypeError,
        f"{GAIN} float32 where x is float32, got float64",
    ),
    "gain_device": ({"input_gain": torch.ones(4, device="meta")}, ValueError, f"{GAIN} on the device of x (cpu)"),
    "shares_shape": (
        MIXTURE | {"kernel_attention": torch.ones(2, 4)},
        ValueError,
        f"{SHARES} have shape [2, 5] (samples, kernels), got [2, 4]",
    ),
    "shares_static": (
        MIXTURE | {"kernel_attention": torch.ones(5)},
        ValueError,
        f"{SHARES} have shape [2, 5] (samples, kernels), got [5]",
    ),
    "shares_dtype": (
        MIXTURE | {"kernel_attention": torch.ones(2, 5).half()},
        TypeError,
        f"{SHARES} be float32 where x is float32, got float16",
    ),
    "shares_list": (MIXTURE | {"kernel_attention": [1, 2]}, TypeError, f"{SHARES} be a tensor, got list"),
    "one_kernel": (
        {"kernel_attention": torch.ones(2, 5)},
        ValueError,
        "weight must be 5-D [K, C_out, C_in, kh, kw] with kernel_attention, got 4-D [3, 4, 3, 3]",
    ),
    "no_kernel": (
        {"weight": torch.ones(0, 3, 4, 3, 3), "kernel_attention": torch.ones(2, 0)},
        ValueError,
        "weight must have one kernel at least, got [0, 3, 4, 3, 3]",
    ),
    "channels": (
        MIXTURE | {"weight": torch.ones(5, 3, 2, 3, 3)},
        ValueError,
        "weight must have the 4 channels of x, got 2 in [5, 3, 2, 3, 3]",
    ),
}


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize(("change", "kind", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(change, kind, sentence, up):
    with pytest.raises(kind) as caught:
        modulated_conv2d(**({"x": X, "weight": WEIGHT, "styles": STYLES, "up": up} | change))
    assert str(caught.value).startswith(f"modulated_conv2d: {sentence}")
