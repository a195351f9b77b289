"""What the sanitizers see of a kernel in host execution: each thread as a thread, ordered by barriers alone, and shared
memory that ends where it was asked to."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
CUDA = ROOT / "csrc" / "cuda"
HOST_EXECUTION = ROOT / "tests" / "cuda" / "host_execution"
COMPILER = os.environ.get("CXX", "c++")
RACE = "WARNING: ThreadSanitizer: data race"
PAST = "ERROR: AddressSanitizer: heap-buffer-overflow"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A function that runs one case of sanitized_kernels.cpp, built with the sanitizer."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"needs a C++ compiler, and there is no {COMPILER}")
    in_python = ("module.cpp", "ops.cpp")
    runtime = [file for file in sorted(HOST_EXECUTION.glob("*.cpp")) if file.name not in in_python]
    sources = [ROOT / "tests/cuda/sanitized_kernels.cpp", *runtime, "-xc++", CUDA / "kernels/launch.cu"]
    folder = tmp_path_factory.mktemp("sanitized_kernels")

    def run(sanitizer, case):
        program = folder / sanitizer
        if not program.exists():
            library = {"thread": "libtsan.so", "address": "libasan.so"}[sanitizer]
            found = subprocess.run([COMPILER, f"-print-file-name={library}"], capture_output=True, text=True).stdout
            if not Path(found.strip()).is_absolute():
                pytest.skip(f"needs a C++ compiler with {library}, which {COMPILER} has not")
            command = [
                COMPILER,
                "-std=c++20",
                "-O1",
                "-g1",
                "-DKERNELDNA_HOST_EXECUTION",
                f"-I{CUDA}",
                f"-I{HOST_EXECUTION.parent}",
                f"-fsanitize={sanitizer}",
            ]
            done = subprocess.run([*command, *sources, "-o", program], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-5000:]
        done = subprocess.run([program, case], capture_output=True, text=True)
        if "unexpected memory mapping" in done.stderr:
            pytest.skip("ThreadSanitizer cannot run here: the system lays out memory too much at random for it")
        return done

    return run


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_what_is_right_is_not_reported(kernels, sanitizer):
    done = kernels(sanitizer, "all that is right")
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.endswith("done\n")


@pytest.mark.parametrize(
    ("sanitizer", "case", "report"),
    [
        ("thread", "a missing __syncthreads", RACE),
        ("thread", "a missing __syncwarp", RACE),
        ("thread", "two blocks that write one place", RACE),
        ("address", "a byte past the shared memory", PAST),
        ("address", "a copy from past the source", PAST),
    ],
)
def test_what_is_wrong_is_reported(kernels, sanitizer, case, report):
    done = kernels(sanitizer, case)
    assert report in done.stderr
    assert done.returncode not in (0, 2)
