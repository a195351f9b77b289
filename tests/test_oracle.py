"""The two truths, written independently, check each other; nothing else in the suite holds if they disagree."""

import math

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.call import TENSORS
from kerneldna_ops.reference import conv2d_reference
from support import oracle
from support.cases import ABSENT, EDGES, SMALL, SUBSETS, build, grad_output, numbers
from support.truths import by_autograd

LOOPS = [*SMALL, *SUBSETS, *(case for case in EDGES if case.products <= 20_000)]


def assert_same(actual, expected, name=""):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_output_of_both_truths_agrees(case):
    call = build(case)
    assert_same(conv2d_reference(*call), oracle.conv(*call))


@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_gradients_of_both_truths_agree(case):
    call, grad = build(case), grad_output(case)
    by_loops = oracle.conv_backward(grad, *call)
    by_reference = by_autograd(lambda call: conv2d_reference(*call), call, grad)
    for name, actual, expected in zip(TENSORS, by_loops, by_reference, strict=True):
        if expected is None:
            assert actual is None, name
        else:
            assert_same(actual, expected, name)


@pytest.mark.parametrize("case", [case for case in SMALL if case.input[0] > 0], ids=str)
def test_oracle_without_attention_is_conv2d(case):
    call = build(case.but(channel=ABSENT, filter=ABSENT, spatial=ABSENT))
    expected = F.conv2d(call.input, call.weight, call.bias, call.stride, call.padding, call.dilation, call.groups)
    assert_same(oracle.conv(*call), expected)


def test_oracle_on_numbers_worked_out_by_hand():
    """Two taps side by side, two channels, one filter: 2 * (3*5*(1*1) + 3*7*(-1*2) + 4*5*(2*3) + 4*7*(0.5*4)) + 100."""
    input = torch.tensor([[[[1.0, 3.0]], [[2.0, 4.0]]]])
    weight = torch.tensor([[[[1.0, 2.0]], [[-1.0, 0.5]]]])
    channel, filter, spatial = torch.tensor([[5.0, 7.0]]), torch.tensor([[2.0]]), torch.tensor([[[3.0, 4.0]]])
    y = oracle.conv(input, weight, torch.tensor([100.0]), channel, filter, spatial, (1, 1), (0, 0), (1, 1), 1)
    assert y.tolist() == [[[[2 * (3 * 5 * 1 + 3 * 7 * -2 + 4 * 5 * 6 + 4 * 7 * 2) + 100]]]]


@pytest.mark.parametrize("case", [*SMALL, *SUBSETS[:27]], ids=str)
def test_gradients_of_the_oracle_are_the_adjoint_of_its_output(case):
    """The output is linear in each argument, so <grad_output, y(t + d) - y(t)> = <gradient of t, d> for any d."""
    call, grad = build(case), grad_output(case)
    output = oracle.conv(*call)
    for name, tensor, gradient in zip(TENSORS, call.tensors, oracle.conv_backward(grad, *call), strict=True):
        if tensor is None:
            continue
        direction = numbers(f"direction of {name}", *tensor.shape)
        change = oracle.conv(*call._replace(**{name: tensor + direction})) - output
        expected = (grad * change).sum().item()
        scale = (grad * output).norm().item() + 1
        assert math.isclose((gradient * direction).sum().item(), expected, abs_tol=1e-11 * scale), name
