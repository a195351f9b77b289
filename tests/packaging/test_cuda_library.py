"""The op library with CUDA kernels, as it is on a machine without a GPU. It takes minutes to compile, so `make
cuda-check` builds it and runs these tests; elsewhere they are skipped."""

import os
import re
import shutil
import sys

import pytest
import torch
from test_no_python import COMPILER
from test_symbols import missing_where_it_is_needed, undefined
from test_wheel import USE

from benchmarks.cuda_figures import figures, rules
from benchmarks.cuda_figures.library import kernels
from support.commands import ROOT, run

BUILT = os.environ.get("KERNELDNA_CUDA_LIBRARY")
pytestmark = pytest.mark.skipif(BUILT is None, reason="needs the library that `make cuda-check` builds")

REPORT = "import torch, kerneldna_ops; print(torch.version.cuda, kerneldna_ops.build_info())"


@pytest.fixture(scope="module")
def cuda_library():
    return ROOT / BUILT / "kerneldna_ops" / "_C.abi3.so"


@pytest.fixture(scope="module")
def package(cuda_library, tmp_path_factory):
    """A folder with a kerneldna_ops that has this library."""
    folder = tmp_path_factory.mktemp("with_cuda")
    copied = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "kerneldna_ops", folder / "kerneldna_ops", ignore=copied)
    shutil.copy(cuda_library, folder / "kerneldna_ops")
    return folder


@pytest.fixture(scope="module")
def rows(cuda_library):
    return figures.rows(kernels(cuda_library))


def run_beside(package, code, *arguments):
    return run([sys.executable, "-c", code, *arguments], cwd=package, env=os.environ | {"PYTHONPATH": str(package)})


def test_takes_nothing_from_torch_but_the_stable_abi(cuda_library):
    unstable = [name for _, name in undefined(cuda_library) if name.split("::")[0] in ("c10", "at", "torch", "caffe2")]
    assert unstable == []


def test_links_what_it_takes_from_torch(cuda_library):
    """But for what only a CUDA build of torch has, which it looks for when it runs (test_torch_stream.py)."""
    assert missing_where_it_is_needed(cuda_library) == set()
    assert "aoti_torch_get_current_cuda_stream" not in dict(map(reversed, undefined(cuda_library)))
    assert b"aoti_torch_get_current_cuda_stream\0" in cuda_library.read_bytes()


def test_keeps_the_cuda_runtime_to_itself(cuda_library):
    """Linked in, so that none need be installed; unseen, so that it does not meet the one that torch brings."""
    needed = [line for line in run(["readelf", "-d", cuda_library]).splitlines() if "NEEDED" in line]
    assert needed
    assert not [line for line in needed if "cuda" in line]
    assert not [name for _, name in undefined(cuda_library) if name.startswith(("cuda", "__cuda"))]
    defined = run(["nm", "-D", "-C", "--defined-only", cuda_library]).splitlines()
    assert [line.split(maxsplit=2)[2] for line in defined if " T " in line] == ["PyInit__C"]
    assert not [line for line in defined if "cuda" in line]


def test_cpu_kernels_work_without_a_gpu(package):
    assert run_beside(package, USE.format(environment=str(package)))


# As much of a CUDA build of torch, and of the driver, as the question about a device needs.
TORCH_CUDA = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void **stream) { return *stream = nullptr, 0; }'
GUARD = """
extern "C" int aoti_torch_create_device_guard(int, void **guard) { static int place; return *guard = &place, 0; }
extern "C" int aoti_torch_delete_device_guard(void *) { return 0; }
"""
DRIVER = 'extern "C" int cuDriverGetVersion(int *version) { return *version = 12080, 0; }'
ASK = """
import ctypes, sys, torch, kerneldna_ops
print(torch.ops.kerneldna._cuda_refusal(0))
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_LOCAL)
print(torch.ops.kerneldna._cuda_refusal(0))
"""


def stand_in(folder, name, source):
    (folder / "source.cpp").write_text(source)
    run([COMPILER, "-shared", "-fPIC", f"-Wl,-soname,{name}", folder / "source.cpp", "-o", folder / name])
    return str(folder / name)


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="needs a C++ compiler")
@pytest.mark.skipif(torch.version.cuda is not None, reason="stands in for what this torch has")
def test_finds_the_stream_of_torch_and_says_that_the_driver_is_too_old(package, tmp_path, monkeypatch):
    """Where torch itself, built for an older CUDA, runs well: others answer then."""
    monkeypatch.setenv("LD_PRELOAD", stand_in(tmp_path, "libguard.so", GUARD))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    stand_in(tmp_path, "libcuda.so.1", DRIVER)
    before, after = run_beside(package, ASK, stand_in(tmp_path, "libtorch_cuda.so", TORCH_CUDA)).splitlines()
    assert before == "this PyTorch was built without CUDA, and so has no CUDA stream to run on"
    sentence = r"the library was built with CUDA \d+\.\d, and the NVIDIA driver is for CUDA 12\.8 at most"
    assert re.fullmatch(sentence, after)


def test_says_what_it_was_built_for(package, rows):
    report = run_beside(package, REPORT)
    for arch in {row["arch"] for row in rows}:
        digits, letter = arch.rstrip("af"), arch.lstrip("0123456789")
        assert f"{digits[:-1]}.{digits[-1]}{letter}" in report


def test_machine_code_keeps_the_rules(rows):
    assert {"80", "90a"} <= {row["arch"] for row in rows}
    assert [sentence for row in rows for sentence in rules.violations(row)] == []
    assert list(rules.missing(rows)) == []
