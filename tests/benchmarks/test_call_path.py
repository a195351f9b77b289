"""A forward call passes through few files of ours."""

import os
import subprocess
import sys

import pytest

from benchmarks.call_path import CPP, ROOT

# Of Triton's, call.py has the record that the others hand on.
MOST = {"CPU": 10, "Triton": 11}


@pytest.fixture(scope="module")
def counts():
    pytest.importorskip("triton")
    environment = os.environ | {"KERNELDNA_BACKEND": ""}
    command = [sys.executable, "-m", "benchmarks.call_path"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (line.rsplit(": ", 1) for line in done.stdout.splitlines() if not line.startswith(" "))
    return {title: int(count) for title, count in lines}


def test_a_planned_call_of_triton_launches_after_few_files(counts):
    assert 5 < counts["Triton, next call"] <= MOST["Triton"]


def test_a_call_on_the_cpu_reaches_its_kernel_after_few_files(counts):
    assert 5 < counts["CPU, next call"] + counts["CPU, C++ to the kernel"] <= MOST["CPU"]


def test_the_files_that_are_named_by_hand_exist():
    assert [name for part in CPP.values() for name in part if not (ROOT / "csrc" / name).exists()] == []
