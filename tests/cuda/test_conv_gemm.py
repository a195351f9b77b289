"""The CUDA convolution as a matrix product, run on the CPU: every compiled tile, K cut into parts, any order."""

from typing import NamedTuple

import pytest
import torch

import truths
from cases import ABSENT, SAMPLE, STATIC, TENSORS, Case, build, grad_output
from layouts import far_apart
from tolerance import assert_within, summation

host = pytest.importorskip("kerneldna_ops._cuda_host", reason="needs `make host-kernels`", exc_type=ModuleNotFoundError)
ops = torch.ops.kerneldna_cuda_host

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")


class Math(NamedTuple):
    """How numbers are multiplied: conv_gemm.h."""

    dtype: torch.dtype
    tf32: bool = False

    @property
    def has_large_tiles(self):
        return self.dtype.itemsize == 2

    def __str__(self):
        return "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")


F16, BF16, TF32 = Math(torch.float16), Math(torch.bfloat16), Math(torch.float32, tf32=True)
MATHS = (F16, BF16, TF32)
every_math = pytest.mark.parametrize("math", MATHS, ids=str)

FEW, MANY = 1, 2000  # multiprocessors: work is not cut, or K is wherever that pays


def channels_last(case):
    return case.but(input_layout="channels_last", weight_layout="channels_last", grad_layout="channels_last")


# Tiles have 128 or 64 pixels and as many filters; a step along K has 32 channels, or 16.
WIDE = channels_last(Case("wide", (2, 16, 5, 12), 240, padding=(1, 1)))
WIDE_INPUT = channels_last(Case("wide_input", (2, 240, 5, 12), 16, (1, 3), padding=(0, 1)))
NARROW = channels_last(Case("narrow", (2, 16, 13, 5), 24, (3, 2), padding=(1, 1), dilation=(1, 2)))
GROUPS = channels_last(Case("groups", (1, 64, 9, 8), 144, (3, 2), (1, 2), (1, 0), groups=2))
SMALL_GROUPS = channels_last(Case("small_groups", (2, 96, 8, 7), 120, stride=(3, 2), padding=(1, 1), groups=3))
ONE_PIXEL = channels_last(Case("one_pixel", (70, 24, 1, 1), 16, (1, 1)))
ONE_PIXEL_OF_A_KERNEL = channels_last(Case("one_pixel_of_a_kernel", (67, 8, 1, 1), 8, padding=(1, 1)))
NO_TAPS = channels_last(Case("no_taps", (2, 8, 7, 6), 8, (1, 1), stride=(2, 2)))
STRIDE_BEYOND_KERNEL = channels_last(Case("stride_beyond_kernel", (2, 8, 9, 11), 8, (2, 1), stride=(4, 5)))
STRIDE_AND_DILATION = channels_last(
    Case("stride_and_dilation", (2, 8, 11, 10), 8, stride=(2, 3), padding=(2, 1), dilation=(2, 2))
)
MUCH_PADDING = channels_last(Case("much_padding", (2, 8, 2, 3), 16, (5, 5), padding=(4, 3)))
DEPTHWISE = channels_last(Case("depthwise", (2, 16, 6, 7), 16, padding=(1, 1), groups=16))
DEEP = channels_last(Case("deep", (2, 64, 3, 3), 72, padding=(1, 1)))
SHAPES = (GROUPS, SMALL_GROUPS, ONE_PIXEL, ONE_PIXEL_OF_A_KERNEL, NO_TAPS, STRIDE_BEYOND_KERNEL)
SHAPES += (STRIDE_AND_DILATION, MUCH_PADDING, DEEP)
NO_FACTORS = {"bias": False, "channel": ABSENT, "filter": ABSENT, "spatial": ABSENT}
FACTORS = {
    "all": {},
    "none": NO_FACTORS,
    "channel": {"filter": STATIC, "spatial": ABSENT},
    "filter": {"spatial": STATIC},
    "spatial": {"channel": STATIC, "filter": ABSENT},
}


def backward(call, grad):
    return ops.conv_backward(grad, *call, [tensor is not None for tensor in call.tensors])


def everything(case, math):
    """The output and all gradients; None for what is absent."""
    ops._allow_tf32(math.tf32)
    call, grad = build(case, math.dtype), grad_output(case, math.dtype)
    output = ops.conv(*call)
    present = zip(backward(call, grad), call.tensors, strict=True)
    return output, *(gradient if tensor is not None else None for gradient, tensor in present)


def check(case, math, results):
    expected = (truths.output(case), *truths.gradients(case))
    if math.tf32:
        # Each of two factors is off by 2**-11 of itself at most, and so is what is multiplied onto them before that.
        for truth, result in zip(expected, results, strict=True):
            if truth is not None:
                bound = 2**-10 * truth.size + 4 * summation(truth, torch.float32)
                assert truth.error(result) <= bound, f"{truth.name}: {truth.error(result)}, allowed is {bound}"
        return
    outputs, gradients = truths.plain_outputs(case, math.dtype), truths.plain_gradients(case, math.dtype)
    plain = [output + gradient for output, gradient in zip(outputs, gradients, strict=True)]
    assert_within(results, expected, plain)


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


@every_math
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("case", [WIDE, WIDE_INPUT, NARROW], ids=str)
def test_every_tile(case, factors, math):
    """The forward, the gradient of the input and, where an attention needs them, sums of each tap on its own."""
    host.set_limits(multiprocessors=FEW)
    case = case.but(**FACTORS[factors])
    check(case, math, everything(case, math))


# What test_every_tile is about: pixels and channels in blocks of each size.
@pytest.mark.parametrize(
    ("case", "of_half", "of_others"),
    [
        (WIDE, [((1, 2, 1), 256), ((1, 1, 1), 128), ((1, 2, 9), 256)], [(2, 4, 1), (2, 1, 3), (2, 4, 9)]),
        (WIDE_INPUT, [((1, 1, 1), 128), ((1, 2, 1), 256), ((1, 1, 3), 128)], [(2, 1, 1), (2, 4, 1), (2, 1, 3)]),
        (NARROW, [((3, 1, 1), 128), ((3, 1, 1), 128), ((3, 1, 6), 128)], [(3, 1, 1), (3, 1, 1), (3, 1, 6)]),
    ],
    ids=lambda value: str(value) if isinstance(value, Case) else "",
)
def test_tiles(case, of_half, of_others):
    for math in MATHS:
        host.set_limits(multiprocessors=FEW)
        everything(case, math)
        expected = of_half if math.has_large_tiles else [(grid, 128) for grid in of_others]
        assert tiles() == expected, math


@pytest.mark.parametrize("spatial", [ABSENT, STATIC, SAMPLE])
def test_the_gradient_of_a_filter_attention_takes_one_product(spatial):
    """Only that of a spatial attention per sample needs the taps one by one."""
    host.set_limits(multiprocessors=FEW)
    call, grad = build(NARROW.but(spatial=spatial), torch.float16), grad_output(NARROW, torch.float16)
    together = backward(call, grad)[4]
    host.clear_launches()
    alone = ops.conv_backward(grad, *call, [name == "filter_attention" for name in TENSORS])[4]
    assert tiles() == [((3, 1, 1), 128)]
    torch.testing.assert_close(alone, together, rtol=1e-2, atol=1e-2)


@every_math
def test_the_padding_stays_zero_whatever_multiplies_it(math):
    """Some pixels have all taps but one on the padding, beside an infinite factor."""
    case = channels_last(Case("padded", (2, 16, 3, 4), 24, padding=(2, 2)))
    ops._allow_tf32(math.tf32)
    outputs = []
    for dtype, convolution in (math.dtype, lambda call: ops.conv(*call)), (torch.float64, truths.sample_by_sample):
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


@every_math
@pytest.mark.parametrize("multiprocessors", [FEW, MANY])
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_every_shape(case, multiprocessors, math):
    host.set_limits(multiprocessors=multiprocessors)
    check(case, math, everything(case, math))


@every_math
@pytest.mark.parametrize("layout", ["contiguous", "channels_last_sliced", "expanded_pixels"])
def test_layouts(layout, math):
    grad_layout = "contiguous" if layout == "channels_last_sliced" else layout
    case = NARROW.but(input_layout=layout, grad_layout=grad_layout, vector_layout="strided")
    check(case, math, everything(case, math))


@every_math
@pytest.mark.parametrize("factors", FACTORS)
def test_parts_of_k(factors, math):
    """Blocks for each part of K, and a second launch that adds them up: the same numbers, but for rounding."""
    case = DEEP.but(**FACTORS[factors])
    host.set_limits(multiprocessors=FEW)
    in_few, few = everything(case, math), tiles()
    host.set_limits(multiprocessors=MANY)
    in_many = everything(case, math)
    assert [kernel for kernel, *_ in host.launches()].count("conv_gemm_finish") >= 2
    for (grid, _), (of_few, _) in zip(tiles()[:2], few, strict=False):
        assert grid[2] > of_few[2]
    check(case, math, in_many)
    for of_many, of_few in zip(in_many, in_few, strict=True):
        if of_many is not None:
            torch.testing.assert_close(of_many, of_few)


# Added up in one order, whatever comes first


@pytest.mark.parametrize("math", [F16, TF32], ids=str)
@pytest.mark.parametrize(
    ("case", "multiprocessors"), [(NARROW, FEW), (DEEP, MANY), (ONE_PIXEL_OF_A_KERNEL, MANY)], ids=str
)
def test_in_any_order(case, multiprocessors, math):
    """Bit-equal, in whatever order blocks and threads run and copies arrive."""
    host.set_limits(multiprocessors=multiprocessors)
    expected = everything(case, math)
    for blocks, threads, copies in (
        ("descending", "round_robin", "early"),
        ("shuffled", "first_ahead", "early"),
        ("descending", "first_ahead", "late"),
        ("shuffled", "last_ahead", "late"),
        ("ascending", "last_ahead", "early"),
    ):
        host.set_schedule(blocks, threads, seed=1)
        host.set_copies(copies)
        for actual, first in zip(everything(case, math), expected, strict=True):
            assert torch.equal(actual, first), (blocks, threads, copies)


# Memory


@pytest.mark.parametrize("layout", ["channels_last", "channels_last_sliced"])
def test_inputs_are_not_changed(layout):
    case = NARROW.but(input_layout=layout)
    call, grad = build(case, torch.float16), grad_output(case, torch.float16)
    tensors = (*call.tensors, grad)
    before = [tensor.clone() for tensor in tensors]
    ops.conv(*call)
    backward(call, grad)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("case", [NARROW, STRIDE_AND_DILATION, DEPTHWISE], ids=str)
def test_samples_far_apart(case):
    """Samples of each tensor begin 2**31 elements after each other."""
    call, grad = build(case, torch.float16), grad_output(case, torch.float16)

    def results(call, grad):
        return (ops.conv(*call), *backward(call, grad))

    per_sample = [tensor.dim() > 1 and len(tensor) == len(call.input) for tensor in call.tensors]
    far = [far_apart(tensor) if is_far else tensor for tensor, is_far in zip(call.tensors, per_sample, strict=True)]
    expected = results(call, grad)
    call = call._replace(**dict(zip(call._fields, far, strict=False)))
    assert all(map(torch.equal, results(call, far_apart(grad)), expected))
