"""That poisoned memory is poisoned, and the numeric tests once more with the scratch memory of the library poisoned."""

import platform

import pytest
import torch

from kerneldna_ops.functional import conv2d
from support.cases import STATIC, Case, build, grad_output
from support.devices import skip_unless_it_runs
from support.tolerance import largest
from support.truths import by_autograd, sample_by_sample


def test_new_tensors_are_poisoned(poisoned_memory, dtype):
    assert torch.empty(3, 5, dtype=dtype).isnan().all()
    assert torch.ones(2, dtype=dtype).new_empty(7).isnan().all()
    assert torch.empty_like(torch.ones(2, 3, dtype=dtype)).isnan().all()


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can fill memory")
def test_numbers_with_poisoned_scratch_memory(tests_pass_with):
    """glibc fills new memory with bytes of 0x7f, 3.4e38 in float32: what malloc gave and nobody wrote shows as well."""
    tests_pass_with(
        {"MALLOC_PERTURB_": str(0xFF ^ 0x7F)},
        "op/test_conv_forward.py::test_output",
        "op/test_conv_gradients.py::test_gradients",
        "op/test_poison.py::test_bfloat16_gradients_where_a_step_leaves_the_map",
        "-k",
        "cpu-cpu or step_leaves",  # the others' numbers are made by PyTorch's operators
    )


# The reference is the convolution of PyTorch itself, whose gradient of the weight reads memory that nobody wrote here.
@pytest.mark.without_backends("reference")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 1)])
def test_bfloat16_gradients_where_a_step_leaves_the_map(backend, size, groups):
    """With the memory of malloc filled, as above; at rest it may hold anything."""
    case = Case("step", (2, 8, *size), 6, (3, 2), stride=(4, 2), padding=(1, 1), groups=groups, spatial=STATIC)
    skip_unless_it_runs(backend, build(case, torch.bfloat16))

    def gradients(conv, dtype):
        return by_autograd(conv, build(case, dtype), grad_output(case, dtype))

    actual = gradients(lambda call: conv2d(**call._asdict(), backend=backend), torch.bfloat16)
    for gradient, truth in zip(actual, gradients(sample_by_sample, torch.float64), strict=True):
        if truth is not None:
            torch.testing.assert_close(gradient.double(), truth, rtol=0.02, atol=0.02 * largest(truth))
