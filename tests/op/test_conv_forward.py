"""The output of every backend, in every dtype and layout, against the float64 truth."""

import pytest
import torch

from kerneldna_ops.call import Call
from kerneldna_ops.functional import conv2d
from support import truths
from support.cases import CASES, EDGES, LARGE, PATTERNS, REPRESENTATIVE, SUBSETS, build, named
from support.devices import skip_unless_it_runs
from support.layouts import IMAGES, VECTORS, WEIGHTS
from support.tolerance import assert_within

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")


def run(call, backend):
    skip_unless_it_runs(backend, call)
    return conv2d(**call._asdict(), backend=backend)


def check(case, device, backend, dtype):
    check_output(case, run(build(case, dtype, device), backend), dtype)


def check_output(case, output, dtype):
    assert output.dtype == dtype
    assert_within([output], [truths.output(case)], truths.plain_outputs(case, dtype, output.device))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output(device, backend, dtype, case):
    check(case, device, backend, dtype)


@pytest.mark.parametrize("case", SUBSETS, ids=str)
def test_output_of_every_subset_of_arguments(device, backend, dtype, case):
    check(case, device, backend, dtype)


@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_output_of_common_subsets_on_large_shapes(device, backend, layout, pattern, case):
    check(case.but(input_layout=layout, weight_layout=layout, **PATTERNS[pattern]), device, backend, torch.float32)


@pytest.mark.without_backends("composite", "reference")  # whose vectors and blocks are PyTorch's
@pytest.mark.parametrize("case", EDGES, ids=str)
def test_output_on_both_sides_of_vector_and_block_edges(device, backend, dtype, case):
    check(case, device, backend, dtype)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("layout", IMAGES)
def test_output_of_input_layouts(device, backend, dtype, layout, case):
    check(case.but(input_layout=layout), device, backend, dtype)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("layout", WEIGHTS)
def test_output_of_weight_layouts(device, backend, dtype, layout, case):
    check(case.but(weight_layout=layout), device, backend, dtype)


@pytest.mark.parametrize("case", REPRESENTATIVE[:3], ids=str)
@pytest.mark.parametrize("layout", VECTORS)
def test_output_of_attention_layouts(device, backend, dtype, layout, case):
    check(case.but(vector_layout=layout), device, backend, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_of_channels_last(device, backend, case):
    check(case.but(input_layout="channels_last", weight_layout="channels_last"), device, backend, torch.float32)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_output_keeps_the_memory_format_of_the_input(device, backend, dtype, layout, case):
    output = run(build(case.but(input_layout=layout), dtype, device), backend)
    assert output.is_contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )


def test_offsets_beyond_32_bits(device, backend):
    """Two samples 2**32 bytes apart in memory that is never touched in between."""
    case = named("kernel_3x3_padding_1x1")
    call = build(case, torch.float16, device)
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 2**33:
        pytest.skip("needs 8 GiB of free memory on the card, which has all of a tensor that reaches over 4")
    torch.use_deterministic_algorithms(False)  # filling the memory in between would make it real
    far_apart = call.input.new_empty(2**31 + 1024).as_strided(call.input.shape, (2**31, 42, 7, 1))
    torch.use_deterministic_algorithms(True)
    output = run(call._replace(input=far_apart.copy_(call.input)), backend)
    check_output(case, output, torch.float16)


def test_one_sample_cannot_reach_another(device, backend, dtype):
    """Samples of NaN on both sides of one that is finite, on maps so small that blocks of pixels hold several."""
    case = named("tiles_cross_samples")
    call = build(case, dtype, device)
    alone = run(call, backend)[2]
    call.input[[1, 3]] = torch.nan
    call.channel_attention[[1, 3]] = torch.nan
    call.filter_attention[[1, 3]] = torch.nan
    call.spatial_attention[[1, 3]] = torch.nan
    torch.testing.assert_close(run(call, backend)[2], alone, rtol=0, atol=0)


# PyTorch's own convolutions flush subnormal bfloat16 numbers to zero on some processors.
@pytest.mark.without_backends("composite", "reference")
@pytest.mark.parametrize("factor", [1.0, 1.5, -3.0])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_numbers_are_rounded_once_and_to_nearest(device, backend, half, factor):
    """All 65536 of them, NaN, infinities and subnormal ones included, times a filter attention."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16, device=device).view(half).reshape(1, 1, 256, 256)
    one, f = every.new_ones(1, 1, 1, 1), every.new_full((1, 1), factor)
    output = run(Call(every, one, None, None, f, None, (1, 1), (0, 0), (1, 1), 1), backend)
    torch.testing.assert_close(output, (every.float() * factor).to(half), rtol=0, atol=0, equal_nan=True)
