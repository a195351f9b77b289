"""The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer: the whole library built with both, then called
on small awkward shapes in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "tests" / "sanitizers"
COMPILER = os.environ.get("CXX", "c++")


def runtime(name):
    """The path of a library that comes with the compiler, or None where it has none of that name."""
    if shutil.which(COMPILER) is None:
        return None
    printed = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return printed if Path(printed).is_absolute() else None


needs_sanitizers = pytest.mark.skipif(
    runtime("libasan.so") is None, reason=f"needs a C++ compiler with libasan.so, which {COMPILER} has not"
)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """A folder with a kerneldna_ops whose library has the checks."""
    folder = tmp_path_factory.mktemp("sanitized")
    build = [sys.executable, SCRIPTS / "build.py", folder]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    copied = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "kerneldna_ops", folder / "kerneldna_ops", ignore=copied, dirs_exist_ok=True)
    return folder


def under_sanitizers(folder, vector, *arguments):
    environment = os.environ | {
        "KERNELDNA_CPU_VECTOR": vector,
        # libstdc++ too: Python does not link it, and AddressSanitizer looks for its exceptions at start.
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(folder),
        "PYTHONSAFEPATH": "1",
    }
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@needs_sanitizers
@pytest.mark.parametrize("vector", ["avx512", "avx2", "portable"])
def test_odd_shapes(sanitized, vector):
    done = under_sanitizers(sanitized, vector, SCRIPTS / "odd_shapes.py")
    assert done.returncode == 0, done.stderr[-8000:]
    assert f"{sanitized}/kerneldna_ops/" in done.stdout
    if f"cpu_vector={vector}" not in done.stdout:
        pytest.skip(f"this processor has no {vector}: {done.stdout}")


@needs_sanitizers
def test_the_checks_are_in_the_library(sanitized):
    library = (sanitized / "kerneldna_ops" / "_C.abi3.so").read_bytes()
    assert b"__asan_report_store" in library
    assert b"__ubsan_handle_pointer_overflow" in library
