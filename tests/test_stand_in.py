"""The tests of a card, on the device that stands in for one where there is none: a sample, in a process of its own.

All of them, for as long as it takes: pytest tests --device stand-in
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from host_execution import cuda_host

from support.cases import CPU, SMALL, build

FILES = [
    "op/test_forms.py",
    "test_on_a_card.py",
    "op/test_squeeze_excite.py",
    "op/test_exact.py",
    "op/test_determinism.py",
    "op/test_conv_forward.py",
    "op/test_conv_gradients.py",
    "nn/test_se_layer.py",
]
SAMPLE = " or ".join(
    [
        "test_forms and stand_in",
        "test_forms and (no_bias-c_per_sample-f_static-s_per_sample or bias-c_absent-f_per_sample-s_static)",
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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": f".{os.pathsep}cuda"}
    return subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)


@pytest.mark.long
def test_a_sample_passes():
    done = run("--device", "stand-in", *FILES, "-k", SAMPLE)
    assert done.returncode == 0, done.stdout[-3000:]
    # What it leaves out it says, with the reason.
    assert "needs --device cuda and a backend that has its kernels there" in done.stdout
    assert "x on the CPU, by --device cpu" in done.stdout


@pytest.mark.parametrize("backend", ["triton", "cuda_host"])
def test_a_wrong_kernel_is_found(backend):
    chosen = "test_output_on_the and not depthwise or eights_pointwise and plain"
    arguments = ["--device", "stand-in", "-p", "support.wrong_kernels", "--backend", backend]
    done = run(*arguments, "op/test_forms.py", "op/test_exact.py", "-k", chosen)
    assert done.returncode == 1, done.stdout[-3000:]
    assert " failed" in done.stdout
    assert " passed" not in done.stdout.splitlines()[-1], done.stdout[-3000:]
    assert re.search(r"output: off by 0\.(49|5)\d* in", done.stdout)


COLLECTED = [
    "op/test_forms.py::test_output[cuda-triton-tf32-card_maps_of_2x2]",
    "op/test_forms.py::test_gradients[cuda-cuda-bfloat16-card_one_row]",
    "op/test_conv_gradients.py::test_gradients[cuda-composite-float64-groups_2]",
    "op/test_exact.py::test_sums_of_ones_are_exact[cuda-triton-bfloat16-eights-channels_last-all_static]",
    "test_on_a_card.py::test_graph[gate-cuda-cuda]",
    "test_on_a_card.py::test_a_second_device[gate in training-cuda-triton]",
    "test_cpu.py::test_the_tests_of_the_cpu[cuda]",
]


def test_what_is_collected_where_there_is_a_card():
    """All of it on the card, in TF32 too; what runs on the CPU, in the process of test_cpu.py."""
    files = sorted({test.split("::")[0] for test in COLLECTED})
    wanted = {f"tests/{test}" for test in COLLECTED}
    done = run("-p", "support.pretended_card", "--collect-only", *files, "test_oracle.py")
    assert done.returncode == 0, done.stdout[-3000:]
    collected = done.stdout.splitlines()
    assert wanted <= set(collected), wanted - set(collected)
    elsewhere = [test for test in collected if "[cpu-" in test or "[nowhere" in test or "test_oracle" in test]
    assert all("on_the_stand_in" in test for test in elsewhere)
    assert "x on the CPU, by test_cpu.py in a process of its own" in done.stdout
