"""The op library of the wheel in a C++ program: no Python, only libtorch."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from support.commands import run

pytestmark = pytest.mark.long
SOURCE = Path(__file__).with_name("no_python.cpp")
TORCH = Path(torch.__file__).parent
COMPILER = os.environ.get("CXX", "c++")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which(COMPILER) is None:
        pytest.skip(f"needs a C++ compiler, and there is no {COMPILER}")
    output = tmp_path_factory.mktemp("no_python") / "program"
    abi = int(torch.compiled_with_cxx11_abi())
    flags = ["-std=c++20", "-O0", "-w", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    includes = [f"-I{TORCH}/include", f"-I{TORCH}/include/torch/csrc/api/include"]
    folders = [f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib"]
    link = [*folders, *["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]]
    run([COMPILER, *flags, *includes, SOURCE, "-o", output, *link])
    return output


def test_runs_the_op_with_no_python_in_the_process(program, library):
    assert run([program, library]) == "right\n"


def test_the_program_fails_without_the_library(program, tmp_path):
    done = subprocess.run([program, tmp_path / "absent.so"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "absent.so" in done.stderr
