"""That poisoned memory is poisoned, and the numeric tests once more with the scratch memory of the library poisoned."""

import platform

import pytest
import torch


def test_new_tensors_are_poisoned(poisoned_memory, dtype):
    assert torch.empty(3, 5, dtype=dtype).isnan().all()
    assert torch.ones(2, dtype=dtype).new_empty(7).isnan().all()
    assert torch.empty_like(torch.ones(2, 3, dtype=dtype)).isnan().all()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can fill memory")
def test_numbers_with_poisoned_scratch_memory(tests_pass_with):
    """glibc fills new memory with bytes of 0x7f, 3.4e38 in float32: what malloc gave and nobody wrote shows as well."""
    tests_pass_with(
        {"MALLOC_PERTURB_": str(0xFF ^ 0x7F)},
        "test_conv_forward.py::test_output",
        "test_conv_gradients.py::test_gradients",
    )
