"""The CUDA convolution as a matrix product, run on the CPU: every compiled tile, K cut into parts, any order."""

import pytest
import torch

from support import truths
from support.cases import ABSENT, STATIC, SUBSETS, Case, build
from support.layouts import WEIGHTS, far_apart
from support.tolerance import assert_within

host = pytest.importorskip(
    "host_execution._cuda_host", reason="needs `make host-kernels`", exc_type=ModuleNotFoundError
)
ops = torch.ops.kerneldna_cuda_host

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")

FEW, MANY = 1, 2000  # multiprocessors: work is not cut, or K is wherever that pays


def channels_last(case):
    return case.but(input_layout="channels_last", weight_layout="channels_last")


# Tiles have 128 or 64 pixels and as many filters; a step along K has 32 channels.
WIDE = channels_last(Case("wide", (2, 16, 5, 12), 240, padding=(1, 1)))
WIDE_INPUT = channels_last(Case("wide_input", (2, 240, 5, 12), 16, (1, 3), padding=(0, 1)))
NARROW = channels_last(Case("narrow", (2, 16, 13, 5), 24, (3, 2), padding=(1, 1), dilation=(1, 2)))
GROUPS = channels_last(Case("groups", (1, 64, 9, 8), 144, (3, 2), (1, 2), (1, 0), groups=2))
SMALL_GROUPS = channels_last(Case("small_groups", (2, 96, 8, 7), 120, stride=(3, 2), padding=(1, 1), groups=3))
ONE_PIXEL = channels_last(Case("one_pixel", (70, 24, 1, 1), 16, (1, 1)))
ONE_PIXEL_OF_A_KERNEL = channels_last(Case("one_pixel_of_a_kernel", (67, 8, 1, 1), 8, padding=(1, 1)))
STRIDE_BEYOND_KERNEL = channels_last(Case("stride_beyond_kernel", (2, 8, 9, 11), 8, (2, 1), stride=(4, 5)))
STRIDE_AND_DILATION = channels_last(
    Case("stride_and_dilation", (2, 8, 11, 10), 8, stride=(2, 3), padding=(2, 1), dilation=(2, 2))
)
MUCH_PADDING = channels_last(Case("much_padding", (2, 8, 2, 3), 16, (5, 5), padding=(4, 3)))
DEPTHWISE = channels_last(Case("depthwise", (2, 16, 6, 7), 16, padding=(1, 1), groups=16))
DEEP = channels_last(Case("deep", (2, 104, 3, 3), 72, padding=(1, 1)))  # whose parts of K do not come out even
SHAPES = (GROUPS, SMALL_GROUPS, ONE_PIXEL, ONE_PIXEL_OF_A_KERNEL, STRIDE_BEYOND_KERNEL, STRIDE_AND_DILATION)
SHAPES += (MUCH_PADDING, DEEP)
NO_FACTORS = {"bias": False, "channel": ABSENT, "filter": ABSENT, "spatial": ABSENT}
FACTORS = {
    "all": {},
    "none": NO_FACTORS,
    "channel": {"filter": STATIC, "spatial": ABSENT},
    "filter": {"spatial": STATIC},
    "spatial": {"channel": STATIC, "filter": ABSENT},
    "filter alone": {"channel": ABSENT, "spatial": ABSENT},
}


def run(case, dtype):
    return ops.conv(*build(case, dtype))


def check(case, output):
    assert_within([output], [truths.output(case)], truths.plain_outputs(case, output.dtype))


@pytest.mark.parametrize("case", [NARROW, DEPTHWISE], ids=str)
def test_a_slice_of_aligned_channels_is_read_where_it_stands(case):
    """And nothing of what lies beside it."""
    call, channels = build(case, torch.float16), case.input[1]
    around = torch.full((case.input[0], 3 * channels, *case.input[2:]), torch.nan, dtype=torch.float16)
    slice_of_it = around.contiguous(memory_format=torch.channels_last)[:, channels : 2 * channels].copy_(call.input)
    # One copy is of the output: a slice is not channels_last.
    assert copies(lambda: ops.conv(*call._replace(input=slice_of_it))).count("aten::clone") == 1
    assert torch.equal(ops.conv(*call._replace(input=slice_of_it)), ops.conv(*call))


def copies(function):
    """The operators of torch that copy a tensor meanwhile."""
    with torch.profiler.profile() as profile:
        function()
    return [event.name for event in profile.events() if event.name in ("aten::clone", "aten::copy_")]


def tiles():
    """(grid, threads) of the products since the last call."""
    launched = [(grid, block[0]) for kernel, grid, block, _ in host.launches() if kernel == "conv_gemm"]
    host.clear_launches()
    return launched


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("case", [WIDE, WIDE_INPUT, NARROW], ids=str)
def test_every_tile(case, factors, half):
    host.set_limits(multiprocessors=FEW)
    case = case.but(**FACTORS[factors])
    check(case, run(case, half))


# What test_every_tile is about: pixels and filters in blocks of each size.
@pytest.mark.parametrize(
    ("case", "grid"),
    [(WIDE, ((1, 2, 1), 256)), (WIDE_INPUT, ((1, 1, 1), 128)), (NARROW, ((3, 1, 1), 128))],
    ids=lambda value: str(value) if isinstance(value, Case) else "",
)
def test_tiles(case, grid):
    host.set_limits(multiprocessors=FEW)
    run(case, torch.float16)
    assert tiles() == [grid]


def test_the_padding_stays_zero_whatever_multiplies_it(half):
    """Some pixels have all taps but one on the padding, beside an infinite factor."""
    case = channels_last(Case("padded", (2, 16, 3, 4), 24, padding=(2, 2)))
    outputs = []
    for dtype, convolution in (half, lambda call: ops.conv(*call)), (torch.float64, truths.sample_by_sample):
        call = build(case, dtype)
        call.channel_attention[1, 5] = torch.inf
        outputs.append(convolution(call))
    assert outputs[1].isinf().any()
    for pattern in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(*map(pattern, outputs)), pattern.__name__


def test_strides_that_are_never_stepped_over_need_no_copy():
    """One pixel in channels_last has rows and columns 1 number apart."""
    weight = torch.ones(64, 64, 1, 1, dtype=torch.float16)
    pixel = torch.ones(5, 64, 1, 1, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    assert pixel.stride()[2:] == (1, 1)
    assert copies(lambda: ops.conv(pixel, weight)) == []
    assert copies(lambda: ops.conv(pixel.expand(5, 64, 2, 2).contiguous(), weight))


@pytest.mark.parametrize("multiprocessors", [FEW, MANY])
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_every_shape(case, multiprocessors, half):
    host.set_limits(multiprocessors=multiprocessors)
    check(case, run(case, half))


@pytest.mark.parametrize("case", SUBSETS, ids=str)
def test_every_subset_of_factors(case, half):
    case = channels_last(case).but(input=(3, 8, 5, 6), filters=16)
    check(case, run(case, half))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last_sliced", "expanded_pixels"])
def test_layouts(layout, half):
    case = NARROW.but(input_layout=layout, vector_layout="strided")
    check(case, run(case, half))


@pytest.mark.parametrize("layout", WEIGHTS)
@pytest.mark.parametrize("case", [GROUPS, ONE_PIXEL], ids=str)
def test_weights_in_any_layout(case, layout, half):
    case = case.but(weight_layout=layout)
    check(case, run(case, half))


def test_no_samples(half):
    output = run(NARROW.but(input=(0, *NARROW.input[1:])), half)
    assert output.shape == (0, *truths.output(NARROW).value.shape[1:])
    assert host.launches() == []


@pytest.mark.parametrize("factors", FACTORS)
def test_parts_of_k(factors, half):
    """Blocks for each part of K, and a second launch that adds them up: the same numbers, but for rounding."""
    case = DEEP.but(**FACTORS[factors])
    host.set_limits(multiprocessors=FEW)
    in_few, few = run(case, half), tiles()
    host.set_limits(multiprocessors=MANY)
    in_many = run(case, half)
    assert [kernel for kernel, *_ in host.launches()].count("conv_gemm_finish") == 1
    (((*_, parts), _),) = tiles()
    assert parts > few[0][0][2] == 1
    check(case, in_many)
    torch.testing.assert_close(in_many, in_few)


# Added up in one order, whatever comes first


@pytest.mark.parametrize(
    ("case", "multiprocessors"), [(NARROW, FEW), (DEEP, MANY), (ONE_PIXEL_OF_A_KERNEL, MANY)], ids=str
)
def test_in_any_order(case, multiprocessors):
    """Bit-equal, in whatever order blocks and threads run and copies arrive."""
    host.set_limits(multiprocessors=multiprocessors)
    expected = run(case, torch.float16)
    for blocks, threads, copies in (
        ("descending", "round_robin", "early"),
        ("shuffled", "first_ahead", "early"),
        ("descending", "first_ahead", "late"),
        ("shuffled", "last_ahead", "late"),
        ("ascending", "last_ahead", "early"),
    ):
        host.set_schedule(blocks, threads, seed=1)
        host.set_copies(copies)
        assert torch.equal(run(case, torch.float16), expected), (blocks, threads, copies)


# Memory


@pytest.mark.parametrize("layout", ["channels_last", "channels_last_sliced"])
def test_inputs_are_not_changed(layout):
    call = build(NARROW.but(input_layout=layout), torch.float16)
    before = [tensor.clone() for tensor in call.tensors[:6]]
    ops.conv(*call)
    assert all(map(torch.equal, call.tensors[:6], before))


@pytest.mark.parametrize("case", [NARROW, STRIDE_AND_DILATION, DEPTHWISE], ids=str)
def test_samples_far_apart(case):
    """Samples of each tensor begin 2**31 elements after each other."""
    call = build(case, torch.float16)

    def apart(tensor):
        per_sample = tensor.dim() > 1 and len(tensor) == len(call.input)
        return far_apart(tensor) if per_sample else tensor

    assert torch.equal(ops.conv(*truths.map_tensors(apart, call)), ops.conv(*call))
