"""The gradients of all six tensors on every backend, in every dtype and layout, against the float64 truth."""

import pytest
import torch

from kerneldna_ops.backends import use_backend
from kerneldna_ops.call import TENSORS
from kerneldna_ops.functional import conv2d
from support import truths
from support.cases import CASES, CPU, EDGES, LARGE, PATTERNS, REPRESENTATIVE, SUBSETS, Case, build, grad_output, named
from support.devices import skip_unless_it_runs
from support.layouts import GRADIENTS, IMAGES, VECTORS, WEIGHTS
from support.tolerance import assert_within

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")


def run(call, grad, backend):
    skip_unless_it_runs(backend, call)
    return truths.by_autograd(lambda call: conv2d(**call._asdict(), backend=backend), call, grad)


def check(case, device, backend, dtype):
    check_gradients(case, run(build(case, dtype, device), grad_output(case, dtype, device), backend), dtype, device)


def check_gradients(case, gradients, dtype, device):
    assert all(gradient is None or gradient.dtype == dtype for gradient in gradients)
    assert_within(gradients, truths.gradients(case), truths.plain_gradients(case, dtype, device))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(device, backend, dtype, case):
    check(case, device, backend, dtype)


@pytest.mark.parametrize("case", SUBSETS, ids=str)
def test_gradients_of_every_subset_of_arguments(device, backend, dtype, case):
    check(case, device, backend, dtype)


@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_of_common_subsets_on_large_shapes(device, backend, pattern, case):
    check(case.but(**PATTERNS[pattern]), device, backend, torch.float32)


@pytest.mark.without_backends("composite", "reference")  # whose vectors and blocks are PyTorch's
@pytest.mark.parametrize("case", EDGES, ids=str)
def test_gradients_on_both_sides_of_vector_and_block_edges(device, backend, dtype, case):
    check(case, device, backend, dtype)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("layout", GRADIENTS)
def test_gradients_of_grad_output_layouts(device, backend, dtype, layout, case):
    check(case.but(grad_layout=layout), device, backend, dtype)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("layout", IMAGES)
def test_gradients_of_input_layouts(device, backend, dtype, layout, case):
    check(case.but(input_layout=layout), device, backend, dtype)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("layout", WEIGHTS)
def test_gradients_of_weight_layouts(device, backend, dtype, layout, case):
    check(case.but(weight_layout=layout), device, backend, dtype)


# Strides with which F.conv2d itself has no gradient in float64, and others of windows that overlap.
STRANGE = [
    ((1, 3, 1, 2), (3, 1, 1, 3)),
    ((1, 2, 1, 3), (0, 1, 1, 2)),
    ((2, 2, 3, 1), (2, 1, 2, 2)),
    ((4, 3, 3, 2), (2, 1, 1, 1)),
]


@pytest.mark.parametrize(("shape", "strides"), STRANGE, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_of_a_weight_with_strange_strides(device, backend, dtype, pattern, layout, shape, strides):
    case = Case("strange", (1, shape[1], 4, 5), shape[0], shape[2:], input_layout=layout, **PATTERNS[pattern])
    call, grad = build(case, dtype, device), grad_output(case, dtype, device)
    memory = call.weight.new_empty(32).copy_(torch.linspace(-1, 1, 32))
    weight = memory.as_strided(shape, strides)
    found = run(call._replace(weight=weight), grad, backend)
    expected = run(call._replace(weight=weight.clone(memory_format=torch.contiguous_format)), grad, backend)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("case", REPRESENTATIVE[:3], ids=str)
@pytest.mark.parametrize("layout", VECTORS)
def test_gradients_of_attention_layouts(device, backend, dtype, layout, case):
    check(case.but(vector_layout=layout), device, backend, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_channels_last(device, backend, case):
    layout = "channels_last"
    check(case.but(input_layout=layout, weight_layout=layout, grad_layout=layout), device, backend, torch.float32)


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_keep_the_memory_format_of_their_tensors(device, backend, dtype, layout, case):
    call = build(case.but(input_layout=layout, weight_layout=layout), dtype, device)
    gradients = run(call, grad_output(case, dtype, device), backend)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for name, gradient in zip(TENSORS, gradients, strict=True):
        if gradient is None:
            continue
        image = gradient.dim() == 4
        assert gradient.is_contiguous(memory_format=memory_format if image else torch.contiguous_format), name


MASKS = {
    **{f"only_{name}": [other == name for other in TENSORS] for name in TENSORS},
    **{f"all_but_{name}": [other != name for other in TENSORS] for name in TENSORS},
}


@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_only_the_gradients_asked_for(device, backend, mask, case):
    call, grad = build(case, torch.float32, device), grad_output(case, torch.float32, device)
    skip_unless_it_runs(backend, call)
    wanted = [asked and tensor is not None for asked, tensor in zip(MASKS[mask], call.tensors, strict=True)]
    with use_backend(backend):
        gradients = torch.ops.kerneldna.conv_backward(grad, *call, wanted)
    asked = [gradient if wanted else None for gradient, wanted in zip(gradients, wanted, strict=True)]
    check_gradients(case, asked, torch.float32, device)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_without_gradient_are_left_alone(device, backend, name):
    case = named("mixed_3x3" if name == "kernel_attention" else "kernel_3x3_padding_1x1")
    call = build(case, torch.float32, device)
    skip_unless_it_runs(backend, call)
    getattr(call, name).requires_grad_()
    conv2d(**call._asdict(), backend=backend).backward(grad_output(case, torch.float32, device))
    graded = [other for other in TENSORS if getattr(call, other) is not None and getattr(call, other).grad is not None]
    assert graded == [name]


# One factor for each place where a backend might divide by what it should leave out.
ZEROS = {
    "channel_of_a_sample": ("channel_attention", (0, 1)),
    "channel_of_all_samples": ("channel_attention", (..., 0)),
    "all_channels_of_a_sample": ("channel_attention", 1),
    "filter_of_a_sample": ("filter_attention", (0, 1)),
    "all_filters_of_a_sample": ("filter_attention", 1),
    "all_filters": ("filter_attention", ...),
    "tap_of_a_sample": ("spatial_attention", (0, 0, 0)),
    "tap_of_all_samples": ("spatial_attention", (..., 0, 0)),
    "all_taps_of_a_sample": ("spatial_attention", 1),
    "weight_of_a_filter": ("weight", 0),
    "input_of_a_sample": ("input", 0),
}


@pytest.mark.parametrize("where", ZEROS)
@pytest.mark.parametrize("case", REPRESENTATIVE, ids=str)
def test_gradients_at_zeros(device, backend, case, where):
    """Nothing divides by a factor to leave it out of a product."""
    name, index = ZEROS[where]

    def zeroed(dtype, device=CPU):
        call = build(case, dtype, device)
        getattr(call, name)[index] = 0
        return call, grad_output(case, dtype, device)

    assert_within(
        run(*zeroed(torch.float32, device), backend),
        truths.gradients_of(case, *zeroed(torch.float64)),
        truths.plain_gradients_of(case, *zeroed(torch.float32, device)),
    )
