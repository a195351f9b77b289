"""The composite backend has two ways for spatial attention per sample: each is right, and taken where it is meant."""

import pytest
import torch

from kerneldna_ops import use_backend
from kerneldna_ops.backends import composite
from kerneldna_ops.reference import conv2d_reference
from support import truths
from support.cases import Case, build, grad_output, named

pytestmark = pytest.mark.usefixtures("threads")

CASES = [
    named("kernel_3x2_stride_2x1_padding_1x0_dilation_2x1"),
    named("kernel_3x3_stride_3x2"),
    named("stride_beyond_kernel"),
    named("depthwise_multiplier_2"),
    named("no_samples"),
    named("kernel_3x3_padding_1x1").but(input_layout="channels_last", channel="absent", filter="absent", bias=False),
]


@pytest.mark.parametrize("by_tap", [True, False], ids=["by_tap", "by_sample"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ways_are_right(monkeypatch, case, by_tap):
    monkeypatch.setattr(composite, "by_tap", lambda *args: by_tap)
    call, grad = build(case), grad_output(case)

    def conv(call):
        with use_backend("composite"):
            return torch.ops.kerneldna.conv(*call)

    torch.testing.assert_close(conv(call), conv2d_reference(*call))
    torch.testing.assert_close(truths.by_autograd(conv, call, grad), truths.by_autograd(truths.reference, call, grad))


@pytest.mark.parametrize("mask", ["100000", "010000", "000001", "110000", "000100", "000010"])
def test_the_taps_make_only_what_is_asked_for(monkeypatch, mask):
    monkeypatch.setattr(composite, "by_tap", lambda *args: True)
    call, grad = build(CASES[0]), grad_output(CASES[0])
    mask = [*(bit == "1" for bit in mask), False]
    with use_backend("composite"):
        grads = torch.ops.kerneldna.conv_backward(grad, *call, mask)
    for wanted, found, expected in zip(mask, grads, truths.by_autograd(truths.reference, call, grad), strict=True):
        torch.testing.assert_close(found, expected if wanted else torch.empty(0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("case", "precision", "taken"),
    [
        (Case("many_channels_few_pixels", (2, 64, 3, 4), 8, padding=(1, 1)), torch.float32, True),
        (Case("one_sample", (1, 64, 3, 4), 8, padding=(1, 1)), torch.float32, False),
        (Case("few_channels", (2, 32, 3, 4), 8, padding=(1, 1)), torch.float32, False),
        (Case("low_precision", (2, 64, 3, 4), 8, padding=(1, 1)), torch.bfloat16, False),
    ],
    ids=str,
)
def test_which_way_is_taken(case, precision, taken):
    call = build(case, precision)
    assert composite.by_tap(call.input, call.weight, (call.stride,)) is taken
