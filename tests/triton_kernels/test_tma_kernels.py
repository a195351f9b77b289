"""Forms S, M and X of the forward, interpreted, against both truths, and what they refuse."""

import dataclasses
from itertools import product

import pytest
import torch

from kerneldna_ops.triton_kernels import conv_forward_tma
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.conv_forward_tma import can_run, conv_tma_kernel
from kerneldna_ops.triton_kernels.conv_product import forward
from kerneldna_ops.triton_kernels.launch import recording
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
from support.cases import ABSENT, SAMPLE, STATIC, Case, build
from support.tolerance import assert_within

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")

# Small enough that every size below leaves them somewhere.
S = Config("S", 16, 16, 16, box=(1, 4, 4))
M = Config("M", 16, 16, 16, box=(2, 2, 4))
X = Config("X", 4, 16, 16, box=(4, 1, 1))
FORMS = pytest.mark.parametrize("config", [S, M, X], ids=lambda config: config.form)

CASES = [
    Case("kernel_3x3", (3, 24, 3, 5), 24, padding=(1, 1)),
    Case("kernel_3x3_unpadded", (3, 16, 5, 4), 16),
    Case("kernel_1x1", (5, 40, 3, 2), 8, (1, 1)),
    Case("kernel_1x1_padded", (2, 24, 2, 3), 8, (1, 1), padding=(2, 1)),
    Case("kernel_3x2_dilation_2x1", (2, 8, 6, 3), 24, (3, 2), padding=(1, 0), dilation=(2, 1)),
    Case("kernel_5x5", (5, 8, 3, 4), 8, (5, 5), padding=(2, 2)),
    Case("kernel_5x5_dilation_2x2_larger_than_input", (2, 8, 3, 3), 8, (5, 5), padding=(4, 4), dilation=(2, 2)),
    Case("padding_beyond_kernel", (2, 8, 2, 1), 8, padding=(3, 3)),
    Case("padding_beyond_kernel_dilation_2x1", (2, 8, 1, 2), 8, (2, 3), padding=(4, 3), dilation=(2, 1)),
    Case("stride_2x2", (3, 16, 6, 8), 24, stride=(2, 2), padding=(1, 1)),
    Case("stride_2x2_kernel_1x1", (5, 32, 6, 4), 8, (1, 1), stride=(2, 2)),
    Case("stride_2x1_part_of_a_block", (2, 24, 6, 5), 8, stride=(2, 1), padding=(1, 1)),
    Case("stride_3x2_kernel_5x4_dilation_2x3", (2, 16, 9, 8), 8, (5, 4), (3, 2), (4, 5), (2, 3)),
    Case("stride_beyond_kernel", (2, 16, 8, 6), 8, (2, 1), stride=(4, 3)),
    Case("stride_beyond_kernel_padded", (2, 16, 4, 6), 8, (2, 1), stride=(4, 3), padding=(3, 4)),
    Case("one_row", (1, 8, 1, 9), 8, (1, 3), padding=(0, 1)),
    Case("one_column", (9, 8, 5, 1), 8, (3, 1), padding=(1, 0)),
]
ODD = Case("odd", (3, 8, 2, 3), 24, padding=(1, 1))
CALLS = [(case, torch.float32) for case in CASES] + [(case, torch.float16) for case in CASES[::3]]
ATTENTIONS = [
    Case(
        f"{'bias' if i % 2 else 'no_bias'}-c_{c}-f_{f}-s_{s}",
        *((3, 24, 2, 3), 8, (1, 2)),
        bias=i % 2 == 1,
        channel=c,
        filter=f,
        spatial=s,
    )
    for i, (c, f, s) in enumerate(product((ABSENT, STATIC, SAMPLE), repeat=3))
]


def problem_of(case, dtype=torch.float32, has_g=True):
    batch, channels, height, width = case.input
    geometry = (case.kernel, case.stride, case.padding, case.dilation, case.groups)
    return Problem(batch, channels, case.filters, height, width, *geometry, dtype, has_g)


def run(case, dtype, config):
    """As a backend calls it: where no factor of the reduction is per sample, the weight has them."""
    call = build(case, dtype)
    c, f, s = call.channel_attention, call.filter_attention, call.spatial_attention
    g = reduction_scale(c, s, case.input[1])
    has_g = g.tensor is not None
    w = taps_of(call.weight) if has_g else folded(taps_of(call.weight), c, None, s)
    problem = problem_of(case, dtype, has_g)
    assert can_run(problem, config)
    return image(forward(pixels(call.input), w, problem, config, g, sample_scale(f), call.bias).y)


@FORMS
@pytest.mark.parametrize(("case", "precision"), CALLS, ids=str)
def test_forward(case, precision, config):
    assert_within([run(case, precision, config)], [truths.output(case)], truths.plain_outputs(case, precision))


@FORMS
@pytest.mark.parametrize("case", ATTENTIONS, ids=str)
def test_attentions(case, config):
    result = run(case, torch.float32, config)
    assert_within([result], [truths.output(case)], truths.plain_outputs(case, torch.float32))


@FORMS
def test_box_that_suits_the_problem(config):
    case = ODD
    result = run(case, torch.float32, dataclasses.replace(config, box=None))
    assert_within([result], [truths.output(case)], truths.plain_outputs(case, torch.float32))


def test_samples_of_a_box_without_a_scale_on_form_s():
    case = ODD.but(channel=STATIC, spatial=STATIC)
    result = run(case, torch.float32, dataclasses.replace(S, box=(4, 2, 2)))
    assert_within([result], [truths.output(case)], truths.plain_outputs(case, torch.float32))


@pytest.mark.parametrize(("padding", "dilation"), [((1, 1), (1, 1)), ((3, 1), (2, 1)), ((1, 3), (1, 2))])
def test_form_x_computes_no_tap_on_the_padding(padding, dilation):
    """There zero times an infinite factor would be NaN."""
    x, w = torch.ones(4, 3, 4, 16), torch.ones(16, 9, 16)
    problem = Problem(4, 16, 16, 3, 4, padding=padding, dilation=dilation, dtype=torch.float32)
    g = reduction_scale(torch.full((4, 16), torch.inf), None, 16)
    assert (forward(x, w, problem, X, g).y == torch.inf).all()


@FORMS
def test_slices_that_the_tma_cannot_address(config):
    case = ODD
    call = build(case, torch.float32)
    x, w = pixels(call.input), taps_of(call.weight)
    sliced = [torch.full((t.numel() + 1,), torch.nan)[1:].view_as(t).copy_(t) for t in (x, w)]
    assert all(t.data_ptr() % 16 for t in sliced)
    arguments = (problem_of(case, has_g=False), config)
    assert torch.equal(forward(*sliced, *arguments).y, forward(x, w, *arguments).y)


@FORMS
def test_host_code_reads_no_values(config):
    """What is compiled ahead of time is the launch of a call on the meta device."""
    problem = Problem(6, 64, 32, 6, 8, stride=(2, 2), dtype=torch.bfloat16)
    meta = {"device": "meta", "dtype": problem.dtype}
    x, w, c = (torch.empty(shape, **meta) for shape in ((6, 6, 8, 64), (32, 9, 64), (6, 64)))
    with recording() as launches:
        y = forward(x, w, problem, config, reduction_scale(c, None, 64)).y
    (launch,) = launches
    assert launch.kernel is conv_tma_kernel
    assert y.shape == (6, 3, 4, 32)
    boxes = {"S": 6, "M": 3 * 2, "X": 2 * 12}[config.form]
    assert launch.grid == (boxes * 32 // config.block_n, 1, 1)
    assert launch.args["x"].block_shape == [config.box[0], config.box[1], 1, config.box[2], 16]


REFUSED = {
    "a box that is no block": (dataclasses.replace(M, block_m=32), {}),
    "more than one sample on form S": (dataclasses.replace(S, box=(2, 2, 4)), {}),
    "more than one pixel on form X": (dataclasses.replace(X, box=(2, 1, 2)), {}),
    "a split reduction": (dataclasses.replace(M, split_k=2), {}),
    "groups": (M, {"groups": 2}),
    "channels of 24 bytes": (M, {"in_channels": 12}),
    "filters of 24 bytes": (M, {"out_channels": 6, "dtype": torch.float32}),
    "a height that the stride does not divide": (M, {"height": 7, "stride": (2, 1)}),
    "a width that the stride does not divide": (M, {"stride": (1, 3)}),
    "blocks of channels of two pixels": (M, {"in_channels": 24, "stride": (2, 2)}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what):
    problem = Problem(2, 16, 16, 8, 8)
    config, changes = REFUSED[what]
    assert can_run(problem, {"S": S, "M": M, "X": X}[config.form])
    assert not can_run(dataclasses.replace(problem, **changes), config)


def test_float32_needs_tf32(monkeypatch):
    problem = Problem(2, 16, 16, 8, 8, dtype=torch.float32, exact=True)
    monkeypatch.setattr(conv_forward_tma, "interpreted", False)
    assert not can_run(problem, M)
    assert can_run(dataclasses.replace(problem, exact=False), M)
