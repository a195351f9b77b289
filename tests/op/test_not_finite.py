"""NaN and infinity flow through as torch.nn.functional.conv2d lets them, and no further."""

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.call import TENSORS
from kerneldna_ops.functional import conv2d
from support.cases import CPU, REPRESENTATIVE, SAMPLE, build, grad_output, named
from support.devices import skip_unless_it_runs
from support.truths import by_autograd, sample_by_sample

# The reference multiplies everything into one kernel per sample. An infinite c or f is an infinite kernel there, which
# makes NaN of the padding and of terms of opposite sign: the form it is written in, no mistake.
pytestmark = [
    pytest.mark.usefixtures("poisoned_memory", "threads", "without_cudnn"),
    pytest.mark.without_backends("reference"),
]
VALUES = pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan], ids=str)


def run(call, backend):
    skip_unless_it_runs(backend, call)
    return conv2d(**call._asdict(), backend=backend)


def somewhere(case, name, shape):
    """An element of the last sample, if there are samples, and in the middle; of the input, one that some tap meets."""
    index = [size // 2 for size in shape]
    if name not in ("weight", "bias"):
        index[0] = shape[0] - 1
    if name == "input":
        for axis in (0, 1):
            tap = case.kernel[axis] // 2 * case.dilation[axis] - case.padding[axis]
            index[2 + axis] = case.output[2 + axis] // 2 * case.stride[axis] + tap
    return tuple(index)


def with_value(case, call, name, value):
    tensor = getattr(call, name)
    tensor[somewhere(case, name, tensor.shape)] = value
    return call


def skip_where_conv2d_spreads_it(case, dtype, device, value):
    """On some processors oneDNN multiplies bfloat16 of other groups with zeros, and 0 * inf is NaN."""
    call = with_value(case, build(case, dtype, device), "input", value)
    weight = call.weight.reshape(-1, *call.kernel_shape)[0]
    plain, right = (
        F.conv2d(call.input.to(to), weight.to(to), None, call.stride, call.padding, call.dilation, call.groups)
        for to in (dtype, torch.float64)
    )
    if not torch.equal(plain.isnan(), right.isnan()):
        pytest.skip("F.conv2d, which composite is made of, makes NaN of other filters on this processor")


def assert_same_pattern(actual, expected):
    actual = actual.cpu()
    assert not expected.isfinite().all()
    for pattern in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(pattern(actual), pattern(expected)), pattern.__name__


@VALUES
@pytest.mark.parametrize("name", ["input", "bias", "channel_attention", "filter_attention"])
@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
def test_output(device, backend, dtype, case, name, value):
    """The padding, where conv2d sees zeros, stays zero whatever multiplies it."""
    expected = sample_by_sample(with_value(case, build(case), name, value))
    if backend == "composite":
        skip_where_conv2d_spreads_it(case, dtype, device, value)
    assert_same_pattern(run(with_value(case, build(case, dtype, device), name, value), backend), expected)


@VALUES
@pytest.mark.parametrize("name", ["weight", "spatial_attention"])
@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
def test_output_of_a_tap(device, backend, dtype, case, name, value):
    """Without padding: whether conv2d multiplies an infinite tap with the padding depends on the algorithm it picks."""
    case = case.but(padding=(0, 0))
    expected = sample_by_sample(with_value(case, build(case), name, value))
    assert_same_pattern(run(with_value(case, build(case, dtype, device), name, value), backend), expected)


@VALUES
@pytest.mark.parametrize("name", [*TENSORS, "grad_output"])
@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
def test_gradients(device, backend, case, name, value):
    """Which elements are finite. Infinities of both signs make NaN or not, as the order of summation has it."""
    case = case.but(padding=(0, 0))
    if name == "kernel_attention" and case.kernels in (0, SAMPLE):
        case = case.but(kernels=3, bias=True)

    def gradients(function, dtype, device):
        call, grad = build(case, dtype, device), grad_output(case, dtype, device)
        if name == "grad_output":
            grad[somewhere(case, name, grad.shape)] = value
        else:
            call = with_value(case, call, name, value)
        return by_autograd(function, call, grad)

    expected = gradients(sample_by_sample, torch.float64, CPU)
    actual = gradients(lambda call: run(call, backend), torch.float32, device)
    for of, *both in zip(TENSORS, actual, expected, strict=True):
        if both == [None, None]:
            continue
        finite, expected_finite = (gradient.cpu().isfinite() for gradient in both)
        if of == "input" and name in ("weight", "kernel_attention"):
            # An infinite tap meets zeros beside the edge of grad_output, and again algorithms differ in what they make
            # of it: it must stay in its channels.
            assert not (finite & ~expected_finite).any()
            finite, expected_finite = finite.all(-1).all(-1), expected_finite.all(-1).all(-1)
        assert torch.equal(finite, expected_finite), of


def test_a_zero_does_not_hide_a_nan(device, backend, dtype):
    """0 * NaN is NaN in conv2d, so nothing may skip a channel because its factor is zero."""
    call = build(named("kernel_3x3_padding_1x1"), dtype, device)
    call.channel_attention.zero_()
    call.input.fill_(torch.nan)
    assert run(call, backend).isnan().all()
