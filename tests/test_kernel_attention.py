"""functional.conv2d with kernel attention, and conv2d_per_sample: the formulas, the bias, what autocast casts."""

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops import explain_backends
from kerneldna_ops.functional import conv2d, conv2d_per_sample
from support import truths
from support.cases import SAMPLE, build, named

pytestmark = pytest.mark.usefixtures("threads")

CALL = build(named("mixed_stride_2x1_groups_2"))
KERNELS = len(CALL.weight)
GEOMETRY = {"stride": (2, 1), "padding": (1, 0), "dilation": (2, 1), "groups": 2}
LOW = [torch.bfloat16, torch.float16]


def by_hand(input, weight, bias, shares):
    """Of each sample one F.conv2d with the mixed weight and bias."""
    weights = (shares[:, :, None, None, None, None] * weight).sum(1)
    biases = (shares[:, :, None] * bias).sum(1)
    return torch.cat([F.conv2d(x[None], w, b, **GEOMETRY) for x, w, b in zip(input, weights, biases, strict=True)])


@pytest.fixture
def leaves():
    """Input, weight [K, ...], bias [K, C_out] and shares."""
    tensors = (CALL.input, CALL.weight, torch.randn(KERNELS, CALL.weight.shape[1]), CALL.kernel_attention)
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def test_a_bias_of_each_kernel_is_mixed_as_they_are(leaves):
    input, weight, bias, shares = leaves
    output, expected = conv2d(input, weight, bias, kernel_attention=shares, **GEOMETRY), by_hand(*leaves)
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(expected)
    of_both = (torch.autograd.grad(y, leaves, grad) for y in (output, expected))
    torch.testing.assert_close(*of_both)


def test_one_bias_is_not_mixed():
    shares, without_bias = CALL.kernel_attention * 3, CALL._replace(bias=None)
    output, without = (conv2d(**call._replace(kernel_attention=shares)._asdict()) for call in (CALL, without_bias))
    torch.testing.assert_close(output, without + CALL.bias[:, None, None])


SHARES = {
    "zero": torch.zeros(1, KERNELS),
    "one kernel alone": torch.eye(KERNELS)[1:2],
    "negative": -torch.ones(1, KERNELS),
    "sum of nine": torch.full((1, KERNELS), 9 / KERNELS),
    "large": torch.tensor([[1e4, -1e4, 0.5]]),
}


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_shares_need_not_sum_to_one_nor_be_positive(shares, backend, device):
    """Nor is anything divided by them: the gradient of a share is there where it is 0."""
    call = CALL._replace(kernel_attention=shares.double().expand(len(CALL.input), -1))
    runs, reason = explain_backends(**call._asdict())[backend]
    if not runs:
        pytest.skip(f"{backend}: {reason}")
    grad = torch.randn_like(truths.reference(call))
    expected = truths.sample_by_sample(call)
    torch.testing.assert_close(conv2d(**call._asdict(), backend=backend), expected)
    grads = truths.by_autograd(lambda call: conv2d(**call._asdict(), backend=backend), call, grad)
    torch.testing.assert_close(grads, truths.by_autograd(truths.sample_by_sample, call, grad))
    assert grads[6].abs().min() > 0


def test_a_share_of_one_kernel_is_that_kernel():
    for k in range(KERNELS):
        chosen = torch.eye(KERNELS, dtype=torch.float64)[k].expand(len(CALL.input), -1)
        mixed = CALL._replace(kernel_attention=chosen)
        shared = CALL._replace(weight=CALL.weight[k], kernel_attention=None)
        torch.testing.assert_close(conv2d(**mixed._asdict()), conv2d(**shared._asdict()))


@pytest.mark.parametrize("name", ["kernel_3x3_padding_1x1", "depthwise", "eights"])
def test_a_mixture_of_one_whole_kernel_is_the_shared_one(name):
    shared = build(named(name))
    ones = torch.ones(len(shared.input), 1, dtype=torch.float64)
    mixed = shared._replace(weight=shared.weight[None], kernel_attention=ones)
    torch.testing.assert_close(conv2d(**mixed._asdict()), conv2d(**shared._asdict()))


def test_shares_as_blocks_of_squeeze_and_excitation_give_them(leaves):
    input, weight, bias, shares = leaves
    output = conv2d(input, weight, bias, kernel_attention=shares[..., None, None], **GEOMETRY)
    torch.testing.assert_close(output, conv2d(input, weight, bias, kernel_attention=shares, **GEOMETRY))


def test_one_image_has_shares_of_its_own(leaves):
    input, weight, bias, shares = leaves
    image = conv2d(input[1], weight, bias, kernel_attention=shares[1:2], **GEOMETRY)
    torch.testing.assert_close(image, by_hand(*leaves)[1])


def test_padding_is_named_for_the_taps_of_a_kernel():
    input, weight = torch.randn(2, 4, 5, 6), torch.randn(3, 6, 4, 3, 5)
    shares = torch.rand(2, 3)
    output = conv2d(input, weight, kernel_attention=shares, padding="same")
    weights = torch.einsum("nk,koiuv->noiuv", shares, weight)
    expected = [F.conv2d(x[None], w, padding="same") for x, w in zip(input, weights, strict=True)]
    torch.testing.assert_close(output, torch.cat(expected), rtol=1e-4, atol=1e-4)


# A weight for each sample


@pytest.mark.parametrize("bias", [True, False, SAMPLE], ids=str)
@pytest.mark.parametrize("case", [named("given_3x3"), named("given_groups_2"), named("given_depthwise")], ids=str)
def test_a_weight_for_each_sample_is_a_loop_over_them(case, bias):
    call = build(case.but(bias=bias))
    tensors = [call.input, call.weight, *([] if call.bias is None else [call.bias])]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    geometry = dict(zip(("stride", "padding", "dilation", "groups"), call.geometry, strict=True))

    def loop(input, weight, bias=None):
        biases = [None] * len(input) if bias is None else bias.expand(len(input), -1)
        each = zip(input, weight, biases, strict=True)
        return torch.cat([F.conv2d(x[None], w, b, **geometry) for x, w, b in each])

    output, expected = conv2d_per_sample(*leaves, **geometry), loop(*leaves)
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, leaves, grad) for y in (output, expected)))


def test_conv2d_per_sample_takes_what_conv2d_does():
    call = build(named("given_3x3"))
    arguments = call._asdict()
    del arguments["kernel_attention"]
    for backend in (None, "composite", "reference"):
        expected = conv2d(**call._asdict(), backend=backend)
        torch.testing.assert_close(conv2d_per_sample(**arguments, backend=backend), expected, rtol=0, atol=0)


def test_conv2d_per_sample_refuses_a_weight_that_all_share():
    sentence = r"^conv2d_per_sample: weight must be 5-D \[N, C_out, C_in/groups, kh, kw\], got 4-D \[6, 4, 3, 3\]$"
    with pytest.raises(ValueError, match=sentence):
        conv2d_per_sample(torch.ones(2, 4, 5, 5), torch.ones(6, 4, 3, 3))


# Which backends


@pytest.mark.parametrize("name", ["triton", "cuda"])
@pytest.mark.parametrize("case", ["mixed_3x3", "given_3x3", "shared_bias_per_sample"])
def test_backends_that_read_one_weight_say_so(monkeypatch, name, case):
    module = pytest.importorskip("kerneldna_ops.backends").module_of(name)
    monkeypatch.setattr(module, "runs_on", lambda input: (True, ""))
    runs, reason = explain_backends(**build(named(case), torch.float32)._asdict())[name]
    assert not runs
    assert reason == "its kernels read one weight and one bias for all samples"


# Autocast


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("of_shares", [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("of_bias", [torch.float32, *LOW], ids=str)
def test_autocast_casts_shares_and_biases_of_any_precision(leaves, low, of_shares, of_bias):
    input, weight, bias, shares = (tensor.detach().float() for tensor in leaves)
    bias, shares = bias.to(of_bias).requires_grad_(), shares.to(of_shares).requires_grad_()
    with torch.autocast("cpu", dtype=low):
        output = conv2d(input, weight, bias, kernel_attention=shares, **GEOMETRY)
    assert output.dtype == low
    exact = [t.detach().to(low) for t in (input, weight, bias, shares)]
    expected = conv2d(*exact[:3], kernel_attention=exact[3], **GEOMETRY)
    torch.testing.assert_close(output, expected)
    grads = torch.autograd.grad(output.float().sum(), (bias, shares))
    assert [grad.dtype for grad in grads] == [of_bias, of_shares]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("wrong", [("bias",), ("kernel_attention",), ("bias", "kernel_attention")], ids="-".join)
def test_dtypes_of_a_bias_for_each_kernel(wrong, dtype, autocast):
    tensors = {"weight": torch.ones(3, 6, 4, 1, 1), "kernel_attention": torch.ones(2, 3), "bias": torch.ones(3, 6)}
    tensors.update({name: tensors[name].to(dtype) for name in wrong})
    expected = "bfloat16" if autocast else "float32"
    sentence = rf"^conv2d: {wrong[-1]} must have the dtype of input \({expected}\), got {str(dtype)[6:]}$"
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises(TypeError, match=sentence):
        conv2d(torch.ones(2, 4, 5, 5), **tensors)
