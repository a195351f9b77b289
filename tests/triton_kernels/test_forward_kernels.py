"""Form P, interpreted: the forward and the input gradient, with the sums for the attentions, against both truths."""

import dataclasses
from itertools import cycle, product

import pytest
import torch

from kerneldna_ops.triton_kernels import conv_product
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.operands import (
    folded,
    image,
    pixels,
    reduction_scale,
    sample_scale,
    taps_of,
)
from kerneldna_ops.triton_kernels.problem import Problem
from support import truths
from support.cases import ABSENT, CASES, SAMPLE, STATIC, Case, build, grad_output, named
from support.tolerance import assert_within

pytestmark = pytest.mark.usefixtures("threads", "poisoned_memory")

FLAT = Config("P", 32, 16, 16, num_warps=4, num_stages=2)
CONFIGS = {
    "flat": FLAT,
    "split_3": dataclasses.replace(FLAT, split_k=3),
    "narrow_split_2": dataclasses.replace(FLAT, block_m=16, block_n=32, split_k=2),
}
LARGEST_FOR_THE_INTERPRETER = 100_000  # products
MOST_GROUPS = 8  # each has programs of its own, and of a time that hardly depends on their products
SHAPES = [
    case
    for case in CASES
    if case.shared and 0 < case.products <= LARGEST_FOR_THE_INTERPRETER and case.groups <= MOST_GROUPS
]
# Every shape in one configuration, and every fifth in half precision.
CALLS = [
    *((case, config, torch.float32) for case, config in zip(SHAPES, cycle(CONFIGS.values()), strict=False)),
    *((case, FLAT, torch.float16) for case in SHAPES[::5]),
]
ATTENTIONS = list(zip(product((ABSENT, STATIC, SAMPLE), repeat=3), cycle(CONFIGS.values()), strict=False))
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def operands_of(case, dtype):
    call = build(case, dtype)
    c, s = call.channel_attention, call.spatial_attention
    g = reduction_scale(c, s, case.input[1])
    w = taps_of(call.weight) if g.tensor is not None else folded(taps_of(call.weight), channel=c, spatial=s)
    return call, w, g, Problem.of(call)


def forward(case, dtype, config, **more):
    call, w, g, problem = operands_of(case, dtype)
    f = sample_scale(call.filter_attention)
    return conv_product.forward(pixels(call.input), w, problem, config, g, f, call.bias, **more)


def input_gradient(case, dtype, config):
    call, _, _, problem = operands_of(case, dtype)
    f, s = call.filter_attention, call.spatial_attention
    g = reduction_scale(f, s, case.filters)
    w = taps_of(call.weight) if g.tensor is not None else folded(taps_of(call.weight), filter=f, spatial=s)
    gy, x = pixels(grad_output(case, dtype)), pixels(call.input)
    c = sample_scale(call.channel_attention)
    return conv_product.forward(gy, w, problem, config, g, c, dot_with=x, transposed=True)


@pytest.mark.parametrize(("case", "config", "precision"), CALLS, ids=str)
def test_forward_and_filter_sums(case, config, precision):
    y, dots = forward(case, precision, config, dot_with=pixels(grad_output(case, precision)))
    assert_within([image(y)], [truths.output(case)], truths.plain_outputs(case, precision))
    plain = [(gradients[4],) for gradients in truths.plain_gradients(case, precision)]
    assert_within([dots.to(precision)], [truths.gradients(case)[4]], plain)


@pytest.mark.parametrize(("case", "config", "precision"), CALLS, ids=str)
def test_input_gradient_and_channel_sums(case, config, precision):
    dx, dots = input_gradient(case, precision, config)
    truth, plain = truths.gradients(case), truths.plain_gradients(case, precision)
    both = [[gradients[i] for i in (0, 3)] for gradients in plain]
    assert_within([image(dx), dots.to(precision)], [truth[0], truth[3]], both)


@pytest.mark.parametrize(("attentions", "config"), ATTENTIONS, ids=str)
def test_attentions(attentions, config):
    kinds = dict(zip(("channel", "filter", "spatial"), attentions, strict=True))
    case = Case("attentions", (3, 6, 3, 4), 5, (2, 1), **kinds)
    y = forward(case, torch.float32, config).y
    assert_within([image(y)], [truths.output(case)], truths.plain_outputs(case, torch.float32))


@EVERY_CONFIG
def test_repeats_are_equal_to_the_bit(config):
    case = named("tiles_cross_samples").but(input=(3, 6, 4, 4), filters=9)  # of 16 pixels each, in tiles of 16 and 32
    gy = pixels(grad_output(case, torch.float32))
    for run in (
        lambda: forward(case, torch.float32, config, dot_with=gy),
        lambda: input_gradient(case, torch.float32, config),
    ):
        for first, second in zip(run(), run(), strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_nan_beyond_a_tile_stays_where_it_is():
    """Rows beyond the end stand on the last pixel, columns beyond the end on other taps: neither may be added."""
    case = Case("odd", (2, 5, 3, 3), 5, (3, 3), padding=(1, 1))
    call, w, g, problem = operands_of(case, torch.float32)
    x, gy = pixels(call.input).clone(), pixels(grad_output(case, torch.float32))
    clean = conv_product.forward(x, w, problem, FLAT, g, dot_with=gy)
    x[1, 2, 2] = torch.nan
    found = conv_product.forward(x, w, problem, FLAT, g, dot_with=gy)
    torch.testing.assert_close(found.y[0], clean.y[0], rtol=0, atol=0)
    torch.testing.assert_close(found.dots[0], clean.dots[0], rtol=0, atol=0)
    assert found.y[1, 1:, 1:].isnan().all()
    assert not found.y[1, 0].isnan().any()


# The interpreter only warns of a division by zero, to which a GPU answers anything.
@pytest.mark.filterwarnings("error")
def test_a_stride_beyond_the_input_leaves_classes_without_pixels():
    case = Case("narrow", (2, 3, 1, 2), 4, (2, 3), stride=(3, 4), padding=(1, 1))
    dx, _ = input_gradient(case, torch.float32, FLAT)
    plain = [(gradients[0],) for gradients in truths.plain_gradients(case, torch.float32)]
    assert_within([image(dx)], [truths.gradients(case)[0]], plain)


@pytest.mark.parametrize("split_k", [1, 2, 4])
def test_blocks_without_masks(split_k):
    """Channels and filters that fill their blocks; of 9 steps the last program of a split has fewer than the others."""
    case = Case("full_blocks", (2, 16, 4, 3), 16, padding=(1, 1))
    config = dataclasses.replace(FLAT, split_k=split_k)
    y = forward(case, torch.float32, config).y
    assert_within([image(y)], [truths.output(case)], truths.plain_outputs(case, torch.float32))
    dx, _ = input_gradient(case, torch.float32, config)
    plain = [(gradients[0],) for gradients in truths.plain_gradients(case, torch.float32)]
    assert_within([image(dx)], [truths.gradients(case)[0]], plain)
