"""The depthwise kernels, interpreted, against both truths: output and all gradients, every form of every attention."""

import math
from itertools import product

import pytest
import torch

from kerneldna_ops.call import TENSORS
from kerneldna_ops.triton_kernels import conv_depthwise
from kerneldna_ops.triton_kernels.conv_depthwise import depthwise_backward, depthwise_forward
from kerneldna_ops.triton_kernels.launch import recording
from kerneldna_ops.triton_kernels.problem import Problem
from support import truths
from support.cases import ABSENT, SAMPLE, STATIC, Case, build, grad_output, named
from support.tolerance import assert_within

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")


def depthwise(name, channels, batch=2, size=(6, 7), kernel=(3, 3), **options):
    return Case(name, (batch, channels, *size), channels, kernel, groups=channels, **options)


CASES = [
    named("depthwise"),
    named("depthwise_1x1"),
    named("depthwise_5x5_stride_2x2"),
    named("depthwise_dilation_2x1"),
    depthwise("no_samples", 3, batch=0),
    depthwise("one_of_everything", 1, batch=1, size=(1, 1), kernel=(1, 1)),
    depthwise("blocks_of_channels", 67, padding=(1, 1)),
    depthwise("blocks_of_pixels", 64, size=(11, 13), padding=(1, 1)),
    depthwise("stride_2x1", 5, stride=(2, 1), padding=(1, 1)),
    depthwise("stride_3x2_even", 4, size=(8, 6), stride=(3, 2), padding=(1, 2)),
    depthwise("stride_beyond_kernel", 3, size=(9, 8), kernel=(2, 1), stride=(4, 3)),
    depthwise("stride_beyond_input", 3, size=(2, 1), stride=(3, 4), padding=(1, 1)),
    depthwise("stride_2x2_dilation_3x2", 3, size=(9, 8), stride=(2, 2), padding=(3, 2), dilation=(3, 2)),
    depthwise("padding_beyond_kernel", 3, size=(3, 4), padding=(4, 5)),
    depthwise("kernel_larger_than_input", 3, size=(2, 2), kernel=(5, 5), padding=(2, 2)),
    depthwise("kernel_7x7", 3, size=(9, 8), kernel=(7, 7), padding=(3, 3)),
    depthwise("kernel_2x4_stride_2x2", 9, size=(7, 9), kernel=(2, 4), stride=(2, 2), padding=(1, 0)),
]
ATTENTIONS = [
    depthwise(
        f"{'bias' if bias else 'no_bias'}-c_{c}-f_{f}-s_{s}",
        *(4, 3, (4, 5), (3, 2)),
        padding=(1, 1),
        bias=bias,
        channel=c,
        filter=f,
        spatial=s,
    )
    for i, (c, f, s) in enumerate(product((ABSENT, STATIC, SAMPLE), repeat=3))
    for bias in (i % 2 == 0,)
]
STRIDED = depthwise("strided_attentions", 5, padding=(1, 1), vector_layout="strided")
CALLS = [(case, torch.float32) for case in CASES] + [(case, torch.float16) for case in CASES[:8]]
PRECISIONS = pytest.mark.parametrize(("case", "precision"), CALLS, ids=str)


def operands(case, dtype):
    """(x, w, c, f, s, bias, problem) as the kernels take them."""
    call = build(case, dtype)
    problem = Problem.of(call)
    return (
        call.input.permute(0, 2, 3, 1).contiguous(),
        call.weight[:, 0],
        *(call.channel_attention, call.filter_attention, call.spatial_attention, call.bias, problem),
    )


def pixels_of_gradient(case, dtype):
    return grad_output(case, dtype).permute(0, 2, 3, 1).contiguous()


def gradients(case, dtype, **options):
    """In the order and the shapes of the op's arguments."""
    dx, dw, *others = depthwise_backward(pixels_of_gradient(case, dtype), *operands(case, dtype), **options)
    return None if dx is None else dx.permute(0, 3, 1, 2), None if dw is None else dw[:, None], *others


def check_output(case, dtype):
    output = depthwise_forward(*operands(case, dtype))
    assert output.dtype == dtype
    output = output.permute(0, 3, 1, 2)
    assert_within([output], [truths.output(case)], truths.plain_outputs(case, dtype))


def check_gradients(case, dtype):
    grads, tensors = gradients(case, dtype), build(case, dtype).tensors[:6]
    assert [None if g is None else (g.shape, g.dtype) for g in grads] == [
        None if t is None else (t.shape, dtype) for t in tensors
    ]
    plain = [of_form[:6] for of_form in truths.plain_gradients(case, dtype)]
    assert_within(grads, truths.gradients(case)[:6], plain)


@PRECISIONS
def test_output(case, precision):
    check_output(case, precision)


@PRECISIONS
def test_gradients(case, precision):
    check_gradients(case, precision)


@pytest.mark.parametrize("case", [*ATTENTIONS, STRIDED], ids=str)
def test_every_form_of_every_attention(case):
    check_output(case, torch.float32)
    check_gradients(case, torch.float32)


def test_parts_of_a_sample(monkeypatch):
    """More output pixels than a part holds, and a last part that is smaller."""
    monkeypatch.setattr(conv_depthwise, "_PIXELS_PER_PART", 40)
    check_gradients(depthwise("parts", 5, size=(11, 13), padding=(1, 1), stride=(1, 2)), torch.float32)


@pytest.mark.parametrize("wanted", range(6), ids=TENSORS[:6])
def test_each_gradient_alone(wanted):
    case = CASES[0]
    mask = tuple(i == wanted for i in range(6))
    grads = gradients(case, torch.float32, output_mask=mask)
    assert [g is not None for g in grads] == list(mask)
    assert grads[wanted].equal(gradients(case, torch.float32)[wanted])


@pytest.mark.parametrize("zero", [2, 3, 4], ids=["c", "f", "s"])
def test_gradients_where_a_factor_is_zero(zero):
    """Each is a product of the others, and no quotient of the output."""
    case = CASES[0]
    args = operands(case, torch.float32)
    args[zero][0] = 0
    grads = depthwise_backward(pixels_of_gradient(case, torch.float32), *args)
    call = build(case)
    (call.channel_attention, call.filter_attention, call.spatial_attention)[zero - 2][0] = 0
    expected = truths.by_autograd(truths.reference, call, grad_output(case))
    assert expected[zero + 1].abs().min() > 0
    for actual, truth in zip(grads[3:], expected[3:6], strict=True):
        torch.testing.assert_close(actual.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [torch.inf, torch.nan], ids=str)
def test_padding_stays_zero_whatever_multiplies_it(value):
    """Of positive numbers, whose infinite sums are not NaN already."""
    call = truths.map_tensors(torch.Tensor.abs, build(CASES[0], torch.float32))
    args = operands(CASES[0], torch.float32)
    args = [arg.abs() if isinstance(arg, torch.Tensor) else arg for arg in args]
    for c in (call.channel_attention, args[2]):
        c[1, 2] = value
    expected = truths.sample_by_sample(call).permute(0, 2, 3, 1)
    assert expected[1, ..., 2].isnan().any() == math.isnan(value)
    torch.testing.assert_close(depthwise_forward(*args), expected, equal_nan=True)


def test_launches():
    """One for the output, two for all gradients."""
    case = CASES[0]
    args = [t.to("meta") if isinstance(t, torch.Tensor) else t for t in operands(case, torch.float16)]
    with recording() as launches:
        output = depthwise_forward(*args)
        assert len(launches) == 1
        depthwise_backward(output, *args)
    assert len(launches) == 3
