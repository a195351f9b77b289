"""The gradients of all six tensors, interpreted, by every way to them, against both truths."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from kerneldna_ops.call import TENSORS, BackwardCall, Call
from kerneldna_ops.triton_kernels import backward_choice
from kerneldna_ops.triton_kernels.backward_choice import UNTUNED, BackwardConfigs, Choice, candidates
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.conv_backward import gradients
from kerneldna_ops.triton_kernels.cost_model import DEVICES
from kerneldna_ops.triton_kernels.launch import recording
from kerneldna_ops.triton_kernels.problem import Problem
from support import truths
from support.cases import ABSENT, SAMPLE, STATIC, SUBSETS, Case, build, grad_output, named
from support.tolerance import assert_within

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")

BLOCKS, PASSES = Choice(per_sample="blocks"), Choice(per_sample="passes")
WAYS = pytest.mark.parametrize("choice", [BLOCKS, PASSES], ids=lambda choice: choice.per_sample)

# Small enough that every size below leaves them somewhere; more parts than the smallest cases have pixels for.
TILE = Config("P", 16, 16, 16)
TILES = BackwardConfigs(TILE, replace(TILE, block_m=32), TILE, replace(TILE, split_k=2), replace(TILE, split_k=2))

CASES = [
    Case("many_steps_of_pixels", (3, 2, 7, 4), 3, (3, 2), padding=(1, 1)),
    Case("many_steps_of_pixels_stride_2x2", (2, 2, 14, 9), 3, (2, 1), stride=(2, 2), padding=(1, 0)),
    Case("tiles_cross_samples", (5, 17, 3, 2), 4, (2, 1), padding=(1, 1)),
    Case("more_filters_than_a_tile", (2, 3, 3, 2), 33, (1, 2)),
    Case("kernel_3x2_stride_2x1_dilation_2x1", (2, 4, 5, 3), 4, (3, 2), (2, 1), (1, 0), (2, 1), groups=2),
    Case("kernel_3x2_stride_3x2", (2, 3, 7, 5), 4, (3, 2), (3, 2), (1, 1)),
    Case("stride_2x2_dilation_2x1", (2, 3, 6, 5), 4, (2, 2), (2, 2), (1, 1), (2, 1)),
    named("stride_beyond_kernel"),
    named("kernel_1x1"),
    named("kernel_1x1_padded"),
    named("kernel_1x1_stride_3x2"),
    Case("padding_beyond_kernel", (2, 2, 2, 3), 3, (2, 2), padding=(3, 2)),
    Case("groups_3", (2, 6, 3, 4), 9, (2, 1), groups=3),
    Case("depthwise_multiplier_2", (2, 3, 4, 3), 6, (2, 2), groups=3),
    named("one_of_everything"),
]
TINY = Case("tiny", (3, 4, 3, 2), 5, (2, 1), padding=(1, 0))


def run(case, call, grad, choice, mask=None, configs=TILES):
    mask = [tensor is not None for tensor in call.tensors] if mask is None else mask
    return gradients(BackwardCall(grad, call, mask), Problem.of(call), choice, configs)


def check(case, dtype, choice, mask=None):
    call = build(case, dtype)
    found = run(case, call, grad_output(case, dtype), choice, mask)
    assert all(gradient is None or gradient.dtype == dtype for gradient in found)
    assert_within(found, truths.gradients(case), truths.plain_gradients(case, dtype))
    return found


@WAYS
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, choice):
    assert None not in check(case, torch.float32, choice)[:6]


@WAYS
@pytest.mark.parametrize("case", CASES[2:5], ids=str)
def test_gradients_in_float16(case, choice):
    check(case, torch.float16, choice)


@pytest.mark.parametrize("subset", SUBSETS[: len(SUBSETS) // 2], ids=str)
def test_gradients_of_every_subset_of_attentions(subset):
    case = TINY.but(channel=subset.channel, filter=subset.filter, spatial=subset.spatial)
    mixed = [] if case.spatial == SAMPLE else [UNTUNED, Choice("aten", "kernel", "passes"), Choice("kernel", "aten")]
    for choice in (BLOCKS, PASSES, *mixed):
        found = check(case, torch.float32, choice)
        assert [gradient is None for gradient in found] == [tensor is None for tensor in build(case).tensors]


@pytest.mark.parametrize(("choice", "spatial"), [(BLOCKS, SAMPLE), (PASSES, SAMPLE), (BLOCKS, STATIC)], ids=str)
def test_every_mask(choice, spatial):
    case = Case("two_pixels", (2, 3, 1, 2), 2, (1, 2), padding=(0, 1), spatial=spatial)
    for input, weight, *attentions in product((True, False), repeat=5):
        mask = [input, weight, not input, *attentions, False]
        found = check(case, torch.float32, choice, mask)
        assert [gradient is not None for gradient in found] == mask


@WAYS
def test_zero_factors(choice):
    """Nothing is divided by a factor, and a factor of zero has a gradient."""
    call, grad = build(TINY, torch.float32), grad_output(TINY)
    for factor in call.tensors[3:6]:
        factor[0] = 0
        factor[1].flatten()[0] = 0
    exact = truths.map_tensors(torch.Tensor.double, call)
    found = run(TINY, call, grad.float(), choice)
    plain = truths.plain_gradients_of(TINY, call, grad.float())
    assert_within(found, truths.gradients_of(TINY, exact, grad), plain)


NOT_FINITE = Case("not_finite", (2, 3, 5, 3), 3, (2, 2), (2, 1), (1, 1))


@pytest.mark.filterwarnings("ignore:invalid value")
@WAYS
@pytest.mark.parametrize("value", [torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize("name", [*TENSORS[:2], *TENSORS[3:6], "grad_output"])
def test_not_finite(choice, value, name):
    """Which elements are finite, as in test_not_finite.py; zeros on the padding stay zeros whatever multiplies them."""
    case = NOT_FINITE.but(padding=(0, 0)) if name in ("weight", "spatial_attention") else NOT_FINITE

    def poisoned(dtype):
        call, grad = build(case, dtype), grad_output(case, dtype)
        tensor = grad if name == "grad_output" else getattr(call, name)
        tensor[(-1, *(size // 2 for size in tensor.shape[1:]))] = value
        return call, grad

    expected = truths.by_autograd(truths.sample_by_sample, *poisoned(torch.float64))
    found = run(case, *poisoned(torch.float32), choice)
    for of, *both in zip(TENSORS[:6], found[:6], expected[:6], strict=True):
        finite, expected_finite = (gradient.isfinite() for gradient in both)
        if (of, name) == ("input", "weight"):
            # An infinite tap meets zeros beside the edge of grad_output, where algorithms differ.
            assert not (finite & ~expected_finite).any()
        else:
            assert torch.equal(finite, expected_finite), of


@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinite_pixels_are_not_multiplied_by_the_zeros_beyond_a_sample():
    """Three pixels of a block of 16: of positive numbers the sum is infinite, and not NaN."""
    case = Case("three_pixels", (2, 2, 1, 3), 2, (1, 1), channel=ABSENT, filter=SAMPLE, spatial=ABSENT)
    call = truths.map_tensors(torch.Tensor.abs, build(case, torch.float32))
    call.input[:, 0, 0, 0] = torch.inf
    of_weight = run(case, call, grad_output(case, torch.float32).abs(), BLOCKS)[1]
    assert (of_weight[:, 0] == torch.inf).all()
    assert of_weight[:, 1].isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_infinite_factor_does_not_reach_a_tap_that_sees_only_padding():
    case = Case("one_column", (2, 3, 2, 1), 2, (1, 3), padding=(0, 1))
    call = build(case, torch.float32)
    call.channel_attention[1, 2] = torch.inf
    finite = run(case, call, grad_output(case, torch.float32), PASSES)[1].isfinite()
    assert finite[..., [0, 2]].all()
    assert not finite[:, 2, :, 1].any()


@WAYS
@pytest.mark.parametrize("case", CASES[2:4], ids=str)
def test_every_run_gives_the_same_bits(case, choice):
    def once():
        return run(case, build(case, torch.float32), grad_output(case, torch.float32), choice)

    assert all(map(torch.equal, once()[:6], once()[:6]))


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "permuted"])
@pytest.mark.parametrize("choice", [BLOCKS, PASSES, UNTUNED], ids=str)
def test_memory_layouts(layout, choice):
    case = TINY.but(
        spatial=STATIC if choice == UNTUNED else SAMPLE,
        input_layout=layout,
        weight_layout=layout,
        grad_layout=layout,
        vector_layout="contiguous" if layout == "channels_last" else layout,
    )
    check(case, torch.float32, choice)


def test_no_samples():
    case = TINY.but(input=(0, 4, 3, 2))
    found = run(case, build(case, torch.float32), grad_output(case, torch.float32), None)
    for gradient, tensor in zip(found[:6], build(case).tensors[:6], strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor, dtype=torch.float32))


def test_aten_is_refused_where_spatial_attention_is_per_sample():
    for choice in (Choice(input="aten"), Choice(weight="aten")):
        with pytest.raises(ValueError, match="aten has no gradients where spatial attention is per sample"):
            check(TINY, torch.float32, choice)


def launches(channels, size, mask, choice=None, **kinds):
    """The names of the kernels that a call in bfloat16 of a layer of the published networks runs, on no device."""
    case = Case("layer", (128, channels, size, size), channels, padding=(1, 1), **kinds)
    shapes = [case.input, case.weight, (channels,), (128, channels), (128, channels), (128, 3, 3)]
    for i, kind in enumerate((case.channel, case.filter, case.spatial), 3):
        shapes[i] = {ABSENT: None, STATIC: shapes[i][1:], SAMPLE: shapes[i]}[kind]
    empty = [None if s is None else torch.empty(s, dtype=torch.bfloat16, device="meta") for s in shapes]
    call = Call(*empty, padding=(1, 1))
    with recording() as recorded:
        found = gradients(BackwardCall.of(empty[0].new_empty(case.output), *call, mask), Problem.of(call), choice)
    for tensor, gradient, asked in zip(empty, found[:6], mask, strict=True):
        assert gradient is None if tensor is None or not asked else gradient.shape == tensor.shape
    return [launch.kernel.__name__ for launch in recorded]


ALL = (True,) * 6
INPUT = (True, False, False, False, False, False)
WEIGHT = (False, True, False, False, False, False)
CHANNEL = (False, False, False, True, False, False)
SPATIAL = (False, False, False, False, False, True)


def test_only_what_the_mask_asks_for_is_computed():
    assert launches(64, 56, (False, False, True, False, False, False)) == []
    assert launches(64, 56, INPUT) == ["conv_kernel"]
    assert launches(64, 56, WEIGHT) == ["weight_gradient_kernel"]
    assert launches(64, 56, CHANNEL) == ["conv_kernel", "conv_dot_kernel"]
    assert launches(64, 56, SPATIAL) == ["sample_blocks_kernel"]
    assert launches(512, 7, SPATIAL) == ["spatial_gradient_kernel"]


def test_large_maps_go_by_blocks_and_small_ones_by_taps():
    by_blocks = ["sample_blocks_kernel", "conv_kernel", "conv_dot_kernel"]
    by_taps = ["weight_gradient_kernel", "spatial_gradient_kernel", "conv_dot_kernel"]
    for layer, expected in (((64, 56), by_blocks), ((128, 28), by_blocks), ((256, 14), by_taps), ((512, 7), by_taps)):
        assert launches(*layer, ALL, filter=ABSENT) == expected, layer


def test_without_a_choice_aten_runs_where_it_has_a_form():
    for kinds in ({"spatial": STATIC}, {"spatial": ABSENT, "filter": ABSENT}):
        assert set(launches(256, 14, ALL, **kinds)) == {"scale_and_dot_kernel"}
        assert "scale_and_dot_kernel" not in launches(256, 14, ALL, Choice(), **kinds)


@pytest.mark.parametrize("kernel", ["product", "weight", "blocks", "spatial"])
def test_every_architecture_has_candidates(kernel):
    for arch, bits in product((80, 86, 89, 90, 100, 103, 120), (16, 32)):
        assert candidates(kernel, arch, bits)


def test_parts_are_worth_their_memory():
    """The more pixels, the more parts pay, and never more of them than there are pixels for."""
    sizes = [(64, 56), (128, 28), (256, 14), (512, 7)]
    for channels, size in sizes:
        problem = Problem(128, channels, channels, size, size)
        configs = BackwardConfigs.of(problem, DEVICES["H200"])
        for split in (configs.weight.split_k, configs.blocks.split_k):
            assert 1 <= split <= backward_choice.MOST_SPLITS
            assert split * problem.macs // problem.out_pixels * 4 <= 32e6
    few = BackwardConfigs.of(Problem(1, 64, 64, 7, 7), DEVICES["H200"])
    assert few.weight.split_k == few.blocks.split_k == 1
