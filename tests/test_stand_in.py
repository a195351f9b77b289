"""The tests of a card, on the device that stands in for one where there is none: a sample, in a process of its own.

All of them, for as long as it takes: pytest tests --device stand-in
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cases import CPU, SMALL, build
from kerneldna_ops.backends import cuda_host

FILES = [
    "test_forms.py",
    "test_on_a_card.py",
    "test_squeeze_excite.py",
    "test_exact.py",
    "test_determinism.py",
    "test_conv_forward.py",
    "test_conv_gradients.py",
    "nn/test_se_layer.py",
]
SAMPLE = " or ".join(
    [
        "test_forms and stand_in",
        "test_on_a_card and not test_opcheck and not static",
        "test_every_backend_of_the_stand_in",
        "test_sums_of_ones and one_row and all_per_sample and contiguous",
        "test_every_run_on_a_card and kernel_1x1 and float16",
        "kernel_1x1_stride_2x2 and (test_output or test_gradients) and not channels_last",
        "test_a_step_on_a_card and float16 and eval",
    ]
)


@pytest.fixture(scope="module", autouse=True)
def emulator():
    runs, reason = cuda_host.runs_on(build(SMALL[0], device=CPU).input.half())
    if not runs:
        pytest.skip(reason)


def run(*arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", "stand-in", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parent, env=os.environ, capture_output=True, text=True)


def test_a_sample_passes():
    done = run(*FILES, "-k", SAMPLE)
    assert done.returncode == 0, done.stdout[-3000:]
    # What it leaves out it says, with the reason.
    assert "needs --device cuda and a backend that has its kernels there" in done.stdout
    assert "x on the CPU only: --device cpu" in done.stdout


@pytest.mark.parametrize("backend", ["triton", "cuda_host"])
def test_a_wrong_kernel_is_found(backend):
    arguments = ["test_forms.py", "test_exact.py", "-k", "test_output_on_the and not depthwise or one_row and plain"]
    done = run("-p", "wrong_kernels", "--backend", backend, *arguments)
    assert done.returncode == 1, done.stdout[-3000:]
    assert " failed" in done.stdout
    assert " passed" not in done.stdout.splitlines()[-1], done.stdout[-3000:]
    assert "output: off by 0.5 in" in done.stdout
