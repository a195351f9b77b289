"""A mixture as one convolution of K times the channels: its values, and the gradients unfolded from those of it."""

import itertools

import pytest
import torch

from kerneldna_ops.backends import _kernel_fold, composite
from kerneldna_ops.call import BackwardCall
from support import truths
from support.cases import ABSENT, MIXED, SAMPLE, STATIC, Case, build, grad_output

pytestmark = pytest.mark.usefixtures("threads")

CASE = Case("mixed", (3, 6, 5, 4), 4, (3, 2), (2, 1), (1, 0), groups=2, kernels=3)
CASES = [
    *(case for case in MIXED if case.kernels not in (0, SAMPLE) and case.input[0]),
    *(
        CASE.but(name=f"c_{c}-f_{f}-s_{s}", channel=c, filter=f, spatial=s)
        for c, f, s in itertools.product((ABSENT, STATIC, SAMPLE), repeat=3)
    ),
    CASE.but(name="bias_per_sample", bias=SAMPLE),
]


def backward_of(call, grad, mask):
    backward = BackwardCall(grad, call, mask)
    return _kernel_fold.unfolded(backward, composite.conv_backward(_kernel_fold.folded_backward(backward)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients(case):
    call, grad = build(case), grad_output(case)
    torch.testing.assert_close(composite.conv(_kernel_fold.folded(call)), truths.reference(call))
    mask = [tensor is not None for tensor in call.tensors]
    found = backward_of(call, grad, mask)
    torch.testing.assert_close(found, truths.by_autograd(truths.reference, call, grad))
    for gradient, tensor in zip(found, call.tensors, strict=True):
        assert gradient is None or gradient.shape == tensor.shape


@pytest.mark.parametrize("mask", ["1000000", "0100000", "0001000", "0000100", "0000010", "0000001", "1001001"])
def test_only_what_the_mask_asks_for(mask):
    call, grad = build(CASE), grad_output(CASE)
    expected = truths.by_autograd(truths.reference, call, grad)
    mask = [bit == "1" for bit in mask]
    for asked, gradient, truth in zip(mask, backward_of(call, grad, mask), expected, strict=True):
        torch.testing.assert_close(gradient, truth if asked else None)


class OnAGpu:
    """As much of an input on a GPU as the choice looks at."""

    is_cuda = True

    def __init__(self, shape):
        self.shape = torch.Size(shape)


def test_small_maps_of_a_gpu_are_folded():
    """So many pixels as a kernel for each sample costs to write and read, and less for each kernel more."""

    def pays(size, kernels, of=OnAGpu):
        case = Case("map", (2, 8, size, size), 8, padding=(1, 1), kernels=kernels)
        call = build(case.but(input=(2, 8, 3, 3)))
        return _kernel_fold.pays(call._replace(input=of(case.input)))

    assert pays(20, 2)
    assert pays(56, 1)
    assert pays(7, 4)
    assert not pays(14, 4)
    assert not pays(28, 2)
    assert not pays(7, 4, torch.empty)


def test_what_is_no_mixture_is_not_folded():
    for kernels in (0, SAMPLE):
        call = build(CASE.but(kernels=kernels))
        assert not _kernel_fold.pays(call._replace(input=OnAGpu(call.input.shape)))
