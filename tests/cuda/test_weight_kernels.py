"""The CUDA kernels of the weight, run on the CPU: what is static folded into it, its gradient, and theirs out of that.

All but the folded weight by the op's backward, asked for the gradients of the weight and of static attentions alone.
"""

import pytest
import torch

import truths
from cases import ABSENT, SAMPLE, STATIC, SUBSETS, Case, build, grad_output
from layouts import GRADIENTS, IMAGES, WEIGHTS
from tolerance import assert_within, summation

host = pytest.importorskip("kerneldna_ops._cuda_host", reason="needs `make host-kernels`", exc_type=ModuleNotFoundError)
op = torch.ops.kerneldna_cuda_host

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")

MULTIPROCESSORS = (1, 108)  # many steps in one part of the pixels, and one or two steps in each of many


def gradients(call, grad):
    """Of the weight and of what is static; None for all others, as for what is absent."""
    static_dims = (None, 4, None, 1, 1, 2)
    mask = [tensor is not None and tensor.dim() == dims for tensor, dims in zip(call.tensors, static_dims, strict=True)]
    results = op.conv_backward(grad, *call, mask)
    return tuple(result if wanted else None for result, wanted in zip(results, mask, strict=True))


def run(case, dtype):
    return gradients(build(case, dtype), grad_output(case, dtype))


def check(case, dtype):
    assert_within(run(case, dtype), truths.gradients(case), truths.plain_gradients(case, dtype))


def channels_last(case):
    return case.but(input_layout="channels_last", weight_layout="channels_last", grad_layout="channels_last")


# A block of threads has 64 filters and 64 channels, or 128 of both, and 8 to 32 pixels in a step.
SHAPES = [
    channels_last(case)
    for case in (
        Case("one_pixel", (1, 8, 1, 1), 8, (1, 1)),
        Case("vectors", (3, 16, 7, 6), 24, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        Case("samples_share_steps", (70, 8, 1, 1), 16, (1, 1)),
        Case("steps_end_inside_samples", (5, 8, 3, 3), 8, padding=(1, 1)),
        Case("step_as_large_as_map", (3, 8, 4, 8), 8, padding=(1, 1)),
        Case("rows_longer_than_steps", (2, 8, 2, 67), 8, (1, 3), padding=(0, 1)),
        Case("one_sample", (1, 16, 9, 8), 16, padding=(1, 1)),
        Case("mostly_padding", (2, 8, 1, 2), 8, (5, 5), padding=(2, 2)),
        Case("channels_that_fill_no_block", (2, 72, 3, 3), 40, (2, 1), padding=(1, 0)),
        Case("large_blocks", (5, 72, 3, 3), 136, (2, 1), padding=(1, 0)),
        Case("groups", (3, 80, 5, 4), 64, padding=(1, 1), stride=(1, 2), groups=2),
        Case("groups_of_half_a_block", (2, 96, 5, 4), 96, stride=(3, 2), padding=(1, 1), groups=3),
        Case("stride_beyond_kernel", (2, 8, 9, 11), 8, (2, 1), stride=(4, 5)),
        Case("kernel_7x7", (1, 8, 12, 11), 8, (7, 7), stride=(2, 2), padding=(3, 3)),
    )
]
VECTORS, SAMPLES, STEPS, BLOCKS, GROUPS = (SHAPES[i] for i in (1, 2, 3, 9, 10))
STATIC_FACTORS = {"channel": STATIC, "filter": STATIC, "spatial": STATIC}
NO_FACTORS = {"channel": ABSENT, "filter": ABSENT, "spatial": ABSENT}
each_shape = pytest.mark.parametrize("case", SHAPES, ids=str)


@each_shape
@pytest.mark.parametrize("multiprocessors", MULTIPROCESSORS)
def test_per_sample_factors(case, half, multiprocessors):
    host.set_limits(multiprocessors=multiprocessors)
    check(case, half)


@each_shape
@pytest.mark.parametrize("weight_layout", ["contiguous", "channels_last"])
def test_static_factors(case, half, weight_layout):
    check(case.but(**STATIC_FACTORS, weight_layout=weight_layout), half)


@pytest.mark.parametrize("case", [case for case in SUBSETS if not case.bias], ids=str)
def test_every_subset_of_factors(case, half):
    check(channels_last(case).but(input=(3, 8, 5, 6), filters=16), half)


@pytest.mark.parametrize("layout", IMAGES)
def test_images_in_any_layout(half, layout):
    grad_layout = layout if layout in GRADIENTS else "contiguous"
    check(VECTORS.but(input_layout=layout, grad_layout=grad_layout), half)


@pytest.mark.parametrize("layout", WEIGHTS)
def test_weights_in_any_layout(half, layout):
    """Their gradients come in the layout that the op promises."""
    case = BLOCKS.but(**STATIC_FACTORS, weight_layout=layout)
    check(case, half)
    expected = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert run(case, half)[1].is_contiguous(memory_format=expected)


@pytest.mark.parametrize("layout", WEIGHTS)
@pytest.mark.parametrize("factors", [STATIC_FACTORS, NO_FACTORS], ids=["static factors", "no factors"])
@pytest.mark.parametrize("case", [GROUPS, SAMPLES], ids=str)
def test_folded_weights(case, half, factors, layout):
    """What the output and the gradient of the input are made with."""
    case = case.but(**factors, weight_layout=layout)
    call, grad = build(case, half), grad_output(case, half)
    results = op.conv(*call), op.conv_backward(grad, *call, [True] + 5 * [False])[0]
    plain = [
        (output, gradients[0])
        for (output,), gradients in zip(
            truths.plain_outputs(case, half), truths.plain_gradients(case, half), strict=True
        )
    ]
    assert_within(results, (truths.output(case), truths.gradients(case)[0]), plain)


def test_no_samples(half):
    """No parts to add up: zeros."""
    case = VECTORS.but(**STATIC_FACTORS, input=(0, 16, 7, 6))
    for gradient in filter(lambda gradient: gradient is not None, run(case, half)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("multiprocessors", MULTIPROCESSORS)
@pytest.mark.parametrize("case", [VECTORS, BLOCKS.but(**STATIC_FACTORS)], ids=str)
def test_in_any_order(case, half, multiprocessors):
    """Bit-equal, in whatever order threads and blocks run and copies arrive."""
    host.set_limits(multiprocessors=multiprocessors)
    expected = run(case, half)
    for blocks, threads, copies in (
        ("descending", "first_ahead", "early"),
        ("shuffled", "last_ahead", "early"),
        ("ascending", "first_ahead", "late"),
        ("shuffled", "last_ahead", "late"),
    ):
        host.set_schedule(blocks, threads, 1)
        host.set_copies(copies)
        for actual, first in zip(run(case, half), expected, strict=True):
            assert (actual is None and first is None) or torch.equal(actual, first), (blocks, threads, copies)


def launched(case, dtype):
    call, grad = build(case, dtype), grad_output(case, dtype)
    host.clear_launches()
    gradients(call, grad)
    return [kernel for kernel, *_ in host.launches()]


def test_launches(half):
    """A weight is folded only where it has to be, and each static factor costs one launch."""
    plain = VECTORS.but(**NO_FACTORS)
    product = ["conv_weight_gradient", "unfold_weight"]
    assert launched(plain, half) == product
    assert launched(SAMPLES.but(**NO_FACTORS, weight_layout="contiguous"), half) == product
    assert launched(plain.but(weight_layout="contiguous"), half) == ["fold_weight", *product]
    published = plain.but(channel=SAMPLE, filter=STATIC, spatial=STATIC)
    assert launched(published, half) == ["fold_weight", *product, "ordered_sum", "ordered_sum"]


def test_blocks_and_parts():
    """Large blocks where 16-bit channels are many; pixels in as many parts as keep the GPU busy."""
    op._allow_tf32(True)

    def grids(dtype, multiprocessors):
        host.set_limits(multiprocessors=multiprocessors)
        call, grad = build(BLOCKS.but(**NO_FACTORS), dtype), grad_output(BLOCKS, dtype)
        host.clear_launches()
        gradients(call, grad)
        return [(grid[0], block[0]) for kernel, grid, block, _ in host.launches() if kernel == "conv_weight_gradient"]

    # 60 pixels in steps of 64 bytes; 136 filters, 72 channels, 2 taps
    for dtype, squares, threads, steps in ((torch.float16, 2 * 1, 256, 2), (torch.float32, 3 * 2, 128, 4)):
        assert grids(dtype, 1) == [(2 * squares, threads)]
        assert grids(dtype, 108) == [(2 * squares * steps, threads)]


def test_offsets_beyond_32_bits():
    """Samples 2**32 bytes apart in memory that is never touched in between."""
    case = STEPS
    call, grad = build(case, torch.float16), grad_output(case, torch.float16)
    torch.use_deterministic_algorithms(False)  # filling the memory in between would make it real

    def far_apart(image):
        memory = torch.empty(2**31 + image[0].numel(), dtype=image.dtype)
        return memory.as_strided(image.shape, (2**31, *image.stride()[1:])).copy_(image)

    call = call._replace(**{name: getattr(call, name)[:2] for name in ("input", *call._fields[3:6])})
    expected = gradients(call, grad[:2])
    actual = gradients(call._replace(input=far_apart(call.input)), far_apart(grad[:2]))
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize("value", [torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize("name", ["channel_attention", "spatial_attention"])
def test_zeros_of_the_padding_stay_zeros(half, name, value):
    case = channels_last(Case("one_pixel", (3, 8, 1, 1), 8, padding=(1, 1)))
    call, grad = build(case, half), grad_output(case, half)
    getattr(call, name)[2] = value
    gradient = gradients(call, grad)[1]
    assert not gradient[:, :, 1, 1].isfinite().any()
    gradient[:, :, 1, 1] = 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@each_shape
def test_tf32(case):
    """Each of two factors is off by 2**-11 of itself at most, and so is what is multiplied onto them before that."""
    op._allow_tf32(True)
    for truth, gradient in zip(truths.gradients(case), run(case, torch.float32), strict=True):
        if gradient is not None:
            bound = 2**-10 * truth.size + 4 * summation(truth, torch.float32)
            assert truth.error(gradient) <= bound, f"{truth.name}: {truth.error(gradient)}, allowed is {bound}"
