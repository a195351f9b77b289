"""That poisoned memory is poisoned, and the numeric tests once more with the scratch memory of the library poisoned."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def test_new_tensors_are_poisoned(poisoned_memory, dtype):
    assert torch.empty(3, 5, dtype=dtype).isnan().all()
    assert torch.ones(2, dtype=dtype).new_empty(7).isnan().all()
    assert torch.empty_like(torch.ones(2, 3, dtype=dtype)).isnan().all()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can fill memory")
def test_scratch_memory_is_written_before_it_is_read():
    """glibc fills new memory with 0x7f, which is 3.4e38 in float32: what is read too early shows, in malloc too."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "test_conv_forward.py::test_output", "test_conv_gradients.py::test_gradients",
    ]  # fmt: skip
    environment = {**os.environ, "MALLOC_PERTURB_": str(0xFF ^ 0x7F)}
    run = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:]
