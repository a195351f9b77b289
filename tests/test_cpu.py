"""On a machine with an NVIDIA card, all that runs on the CPU: in a process that sees no card, as everywhere else.

In one process Triton's kernels are either compiled for a card or interpreted, and commands take a card that they see.
"""

import importlib.util
import os

import pytest

PROCESSES = min(os.cpu_count() or 1, 8)


@pytest.mark.on("cuda")
def test_the_tests_of_the_cpu(device, pytestconfig, tests_pass_with):
    if pytestconfig.getoption("device"):
        pytest.skip("--device says which devices are tested")
    in_parallel = ["-n", str(PROCESSES), "--dist", "worksteal"] if importlib.util.find_spec("xdist") else []
    tests_pass_with({"OMP_NUM_THREADS": "1"}, "--device", "cpu", *in_parallel)
