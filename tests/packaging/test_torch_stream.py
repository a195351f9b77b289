"""How the CUDA library finds PyTorch's stream: csrc/cuda/torch_stream.cpp beside stand-ins for torch's libraries, which
need one another, and are loaded, as torch's are."""

import os
import shutil
import sys

import pytest

from support.commands import ROOT, run

COMPILER = os.environ.get("CXX", "c++")
pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="needs a C++ compiler")

TORCH_CPU = 'extern "C" int torch_call_dispatcher() { return 0; }'
TORCH_CUDA = """
extern "C" int aoti_torch_get_current_cuda_stream(int device, void **stream) {
  if (device > 7)
    return 1;
  *stream = reinterpret_cast<void *>(1000L + device);
  return 0;
}
"""
# What the op library does: it takes functions from libtorch_cpu.so, and asks for the stream.
LIBRARY = """
#include "torch_stream.h"
#include <exception>
#include <string>
extern "C" int torch_call_dispatcher();
extern "C" const char *stream_of(int device) {
  static std::string answer;
  try {
    answer = std::to_string(torch_call_dispatcher() + reinterpret_cast<long>(kerneldna::cuda::torch_stream(device)));
  } catch (const std::exception &error) {
    answer = error.what();
  }
  return answer.c_str();
}
"""
LOAD = """
import ctypes, sys
for name, mode in zip(sys.argv[1::2], sys.argv[2::2]):
    library = ctypes.CDLL(name, mode=getattr(ctypes, f"RTLD_{mode}"))
library.stream_of.restype = ctypes.c_char_p
for device in (0, 3, 8):
    print(library.stream_of(device).decode())
"""
FOUND = ["1000", "1003", "kerneldna: PyTorch gave no current CUDA stream of cuda:8"]
MISSING = ["kerneldna: this PyTorch was built without CUDA, and so has no CUDA stream to run on"] * 3


class Folder:
    """Libraries that find one another in it."""

    def __init__(self, path):
        self.path = path

    def add(self, name, source="", needs=(), sources=(), linker="--no-as-needed"):
        (self.path / f"{name}.cpp").write_text(source)
        links = [f"-Wl,{linker}", *(f"-l{needed}" for needed in needs), "-Wl,-rpath,$ORIGIN", f"-L{self.path}", "-ldl"]
        self.run_compiler(name, [self.path / f"{name}.cpp", *sources, *links])
        return self

    def run_compiler(self, name, arguments):
        flags = ["-std=c++20", "-shared", "-fPIC", f"-Wl,-soname,lib{name}.so"]
        run([COMPILER, *flags, *arguments, "-o", self.path / f"lib{name}.so"])

    def add_library(self, linker):
        """The op library's part, linked with -ltorch as torch's own CppExtension does."""
        flags = ["-DKERNELDNA_WITH_CUDA", "-fvisibility=hidden", f"-I{ROOT}/csrc/cuda"]
        shown = LIBRARY.replace('extern "C" const', 'extern "C" __attribute__((visibility("default"))) const')
        stream = ROOT / "csrc/cuda/torch_stream.cpp"
        return self.add("kerneldna", shown, ["torch", "torch_cpu"], [*flags, stream], linker)

    def streams(self, *loaded):
        paths = [part for name, mode in loaded for part in (self.path / f"lib{name}.so", mode)]
        return run([sys.executable, "-c", LOAD, *paths]).splitlines()


@pytest.fixture(params=["--as-needed", "--no-as-needed"])
def linker(request):
    """Debian's and Ubuntu's compilers link with the first, those of manylinux images with the second."""
    return request.param


# As `import torch` does.
PYTHON = [("torch_global_deps", "GLOBAL"), ("torch_python", "LOCAL"), ("kerneldna", "LOCAL")]


def test_is_found_beside_a_cuda_torch(tmp_path, linker):
    folder = Folder(tmp_path).add("torch_cpu", TORCH_CPU).add("torch_cuda", TORCH_CUDA, ["torch_cpu"])
    folder.add("torch", "", ["torch_cpu", "torch_cuda"]).add("torch_global_deps").add("torch_python", "", ["torch"])
    assert folder.add_library(linker).streams(*PYTHON) == FOUND


def test_a_library_linked_beside_cpu_only_torch_finds_it_too(tmp_path, linker):
    build, use = Folder(tmp_path / "build"), Folder(tmp_path / "use")
    for folder in (build, use):
        folder.path.mkdir()
        folder.add("torch_cpu", TORCH_CPU)
    build.add("torch", "", ["torch_cpu"]).add_library(linker)
    use.add("torch_cuda", TORCH_CUDA, ["torch_cpu"]).add("torch", "", ["torch_cpu", "torch_cuda"])
    use.add("torch_global_deps").add("torch_python", "", ["torch"])
    shutil.copy(build.path / "libkerneldna.so", use.path)
    assert use.streams(*PYTHON) == FOUND


def test_a_cpu_only_torch_has_none(tmp_path, linker):
    folder = Folder(tmp_path).add("torch_cpu", TORCH_CPU).add("torch", "", ["torch_cpu"])
    folder.add("torch_global_deps").add("torch_python", "", ["torch"])
    assert folder.add_library(linker).streams(*PYTHON) == MISSING


def test_is_found_in_a_program_that_has_torch_linked_into_itself(tmp_path, linker):
    folder = Folder(tmp_path).add("torch_cpu", TORCH_CPU).add("torch", "", ["torch_cpu"]).add("program", TORCH_CUDA)
    assert folder.add_library(linker).streams(("program", "GLOBAL"), ("kerneldna", "LOCAL")) == FOUND
