"""The depthwise CUDA kernels, run on the CPU: each kernel on both sides of the edges of its runs and blocks."""

import itertools

import pytest
import torch

from kerneldna_ops.call import TENSORS
from support import truths
from support.cases import ABSENT, SAMPLE, STATIC, Case, build, grad_output
from support.tolerance import assert_within

host = pytest.importorskip("host_execution._cuda_host", reason="needs `make host-kernels`")
ops = torch.ops.kerneldna_cuda_host

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")


def depthwise(name, batch, channels, size, kernel, multiplier=1, **geometry):
    shape, filters = (batch, channels, *size), channels * multiplier
    geometry.setdefault("input_layout", "channels_last")
    return Case(name, shape, filters, kernel, groups=channels, grad_layout="channels_last", **geometry)


# A thread computes runs of four pixels, of 16 bytes of channels each.
RUNS = [
    depthwise("3x3", 2, 16, (5, 7), (3, 3), padding=(1, 1)),
    depthwise("3x3_last_run_full", 1, 8, (3, 8), (3, 3), padding=(1, 1)),
    depthwise("3x3_unpadded_last_run_full", 2, 8, (6, 10), (3, 3)),
    depthwise("3x3_padding_beyond_kernel", 1, 8, (2, 3), (3, 3), padding=(4, 5)),
    depthwise("3x3_stride_2x2", 2, 24, (7, 9), (3, 3), stride=(2, 2), padding=(1, 1)),
    depthwise("3x3_stride_2x2_even", 2, 8, (6, 8), (3, 3), stride=(2, 2), padding=(0, 2)),
    depthwise("3x3_stride_1x2", 1, 16, (8, 9), (3, 3), stride=(1, 2), padding=(1, 1)),
    depthwise("3x3_stride_3x1", 1, 8, (9, 6), (3, 3), stride=(3, 1), padding=(3, 1)),
    depthwise("3x3_one_pixel", 5, 8, (1, 1), (3, 3), padding=(1, 1)),
    depthwise("2x3", 1, 8, (4, 6), (2, 3), padding=(1, 0)),
    depthwise("1x3_stride_4x2", 2, 8, (9, 6), (1, 3), stride=(4, 2)),
    depthwise("5x5", 2, 8, (6, 7), (5, 5), padding=(2, 2)),
    depthwise("5x5_stride_2x2", 1, 16, (9, 10), (5, 5), stride=(2, 2), padding=(2, 1)),
    depthwise("3x5_stride_2x2", 1, 8, (5, 11), (3, 5), stride=(2, 2), padding=(1, 3)),
    depthwise("7x7", 1, 72, (7, 6), (7, 7), padding=(3, 3)),
    depthwise("8x7_stride_2x1", 2, 8, (9, 10), (8, 7), stride=(2, 1), padding=(3, 2)),
    depthwise("slabs_of_half_the_lanes", 1, 72, (3, 4), (3, 3), padding=(1, 1)),
]
NAMED = {case.name: case for case in RUNS}
# Without padding, and the last pixel of the input lies under a tap.
LAST_PIXEL_MET = [
    depthwise("3x3", 2, 8, (6, 8), (3, 3)),
    depthwise("3x3_stride_2x2", 2, 8, (7, 11), (3, 3), stride=(2, 2)),
    depthwise("5x5", 2, 8, (7, 9), (5, 5)),
]


def check_output(case, dtype, call=None):
    output = ops.conv(*(call or build(case, dtype)))
    assert_within([output], [truths.output(case)], truths.plain_outputs(case, dtype))


def run_backward(case, dtype):
    call = build(case, dtype)
    mask = [tensor is not None for tensor in call.tensors]
    return ops.conv_backward(grad_output(case, dtype), *call, mask)


def check_gradients(case, dtype):
    gradients = run_backward(case, dtype)
    present = [None if truth is None else g for g, truth in zip(gradients, truths.gradients(case), strict=True)]
    assert_within(present, truths.gradients(case), truths.plain_gradients(case, dtype))


@pytest.mark.parametrize("case", RUNS, ids=str)
def test_output(stored, case):
    check_output(case, stored)


@pytest.mark.parametrize("case", RUNS, ids=str)
def test_gradients(stored, case):
    check_gradients(case, stored)


@pytest.mark.parametrize("case", [NAMED["3x3_stride_2x2"], NAMED["5x5_stride_2x2"]], ids=str)
@pytest.mark.parametrize("scales", list(itertools.product((ABSENT, STATIC, SAMPLE), repeat=3)), ids="-".join)
def test_every_subset_of_scales(case, scales):
    channel, filter, spatial = scales
    case = case.but(bias=channel != ABSENT, channel=channel, filter=filter, spatial=spatial)
    check_output(case, torch.float32)
    check_gradients(case, torch.float32)


@pytest.mark.parametrize("index", range(6), ids=TENSORS.__getitem__)
@pytest.mark.parametrize("case", [NAMED["3x3"], NAMED["7x7"]], ids=str)
def test_each_gradient_alone(case, index):
    call = build(case, torch.float32)
    together = run_backward(case, torch.float32)
    mask = [i == index for i in range(len(TENSORS))]
    alone = ops.conv_backward(grad_output(case, torch.float32), *call, mask)
    assert torch.equal(alone[index], together[index])
    assert all(gradient.shape == (0,) for i, gradient in enumerate(alone) if i != index)


def kernels(case, dtype):
    host.clear_launches()
    ops.conv(*build(case, dtype))
    forward = [launch[0] for launch in host.launches()]
    host.clear_launches()
    run_backward(case, dtype)
    return forward, [launch[0] for launch in host.launches() if launch[0] != "ordered_sum"]


@pytest.mark.parametrize("layout", ["channels_last_sliced", "contiguous", "expanded_pixels"])
def test_what_is_no_vectors_is_copied(stored, layout):
    case = NAMED["3x3"].but(input_layout=layout)
    assert kernels(case, stored) == (["depthwise_runs"], ["depthwise_runs", "depthwise_grads"])
    check_output(case, stored)
    check_gradients(case, stored)


@pytest.mark.parametrize("multiprocessors", [1, 3, 500])
@pytest.mark.parametrize("spread", [SAMPLE, STATIC])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 5)], ids=str)
def test_however_the_work_is_cut(multiprocessors, spread, kernel):
    """Few and many blocks: of several samples and of parts of one, summed for each sample or over all."""
    host.set_limits(multiprocessors=multiprocessors)
    padding = (1, 1)
    for batch, size in ((11, (4, 5)), (2, (19, 18))):
        case = depthwise(f"cut_{batch}_{kernel}", batch, 8, size, kernel, padding=padding)
        case = case.but(channel=spread, filter=spread, spatial=spread)
        check_output(case, torch.float32)
        check_gradients(case, torch.float32)


def test_parts_and_ranges_of_several_samples():
    """What test_however_the_work_is_cut is about does happen in it."""

    def blocks(multiprocessors, batch, size):
        host.set_limits(multiprocessors=multiprocessors)
        case = depthwise("blocks", batch, 8, size, (3, 3), padding=(1, 1))
        host.clear_launches()
        run_backward(case, torch.float32)
        (grid,) = (grid for kernel, grid, *_ in host.launches() if kernel == "depthwise_grads")
        return grid[0]

    assert 1 < blocks(1, 11, (4, 5)) < 11
    assert blocks(500, 2, (19, 18)) > 2


@pytest.mark.parametrize("case", [NAMED["3x3_stride_2x2"], NAMED["5x5_stride_2x2"], NAMED["7x7"]], ids=str)
def test_bit_equal_in_any_order(case):
    host.set_limits(multiprocessors=2)
    first = run_backward(case, torch.float32)
    for blocks, threads in (("descending", "first_ahead"), ("shuffled", "last_ahead")):
        host.set_schedule(blocks, threads)
        assert all(map(torch.equal, first, run_backward(case, torch.float32)))


def test_no_samples(stored):
    case = depthwise("none", 0, 8, (4, 5), (3, 3), padding=(1, 1), spatial=STATIC, channel=STATIC)
    assert ops.conv(*build(case, stored)).shape == case.output
    gradients = run_backward(case, stored)
    assert gradients[0].shape == case.input
    for gradient, tensor in zip(gradients[1:6], build(case, stored).tensors[1:6], strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize("name", ["input", "channel_attention", "filter_attention"])
@pytest.mark.parametrize("case", [NAMED["3x3"], NAMED["3x3_stride_2x2"], NAMED["5x5"]], ids=str)
def test_not_finite_in_the_output(case, name, value):
    """The padding stays zero whatever multiplies it."""

    def with_value(dtype):
        call = build(case, dtype)
        tensor = getattr(call, name)
        tensor[tuple(size // 2 for size in tensor.shape)] = value
        return call

    call, expected = with_value(torch.float32), truths.sample_by_sample(with_value(torch.float64))
    assert not expected.isfinite().all()
    output = ops.conv(*call)
    for pattern in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(pattern(output), pattern(expected)), pattern.__name__


@pytest.mark.parametrize("name", [*TENSORS[:6], "grad_output"])
@pytest.mark.parametrize("case", LAST_PIXEL_MET, ids=str)
def test_not_finite_in_the_gradients(case, name):
    """Pixels beyond the end of a row meet no tap, so that nothing infinite reaches the wrong one."""

    def gradients(function, dtype):
        call, grad = build(case, dtype), grad_output(case, dtype)
        tensor = grad if name == "grad_output" else getattr(call, name)
        tensor[tuple(size - 1 for size in tensor.shape)] = torch.inf
        return function(call, grad)

    def truth(call, grad):
        return truths.by_autograd(truths.sample_by_sample, call, grad)

    expected = gradients(truth, torch.float64)
    actual = gradients(lambda call, grad: ops.conv_backward(grad, *call, [True] * 6), torch.float32)
    for of, gradient, truth_of in zip(TENSORS[:6], actual[:6], expected[:6], strict=True):
        if (of, name) != ("input", "weight"):  # algorithms differ in what an infinite tap makes of the edge
            assert torch.equal(gradient.isfinite(), truth_of.isfinite()), of


@pytest.mark.parametrize(
    "strides", [(2**31, 64, 16), (64, 2**31, 16), (64, 128, 2**30)], ids=["sample", "row", "column"]
)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)], ids=str)
def test_offsets_beyond_32_bits(stride, strides):
    """In memory that is mostly never touched."""
    case = depthwise("far", 2, 16, (2, 4), (3, 3), stride=stride, padding=(1, 1))
    call, grad = build(case, torch.bfloat16), grad_output(case, torch.bfloat16)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        far = torch.empty(3 * 2**30 + 1024, dtype=torch.bfloat16)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True
    sample, row, column = strides
    moved = call._replace(input=far.as_strided(case.input, (sample, 1, row, column)).copy_(call.input))
    of_both = ((ops.conv(*c), *ops.conv_backward(grad, *c, [True] * 6)) for c in (moved, call))
    for result, expected in zip(*of_both, strict=True):
        torch.testing.assert_close(result, expected, rtol=0.02, atol=0.02)
