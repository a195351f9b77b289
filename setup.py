"""Builds the op library kerneldna_ops/_C.abi3.so; everything else about the package stands in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils import cpp_extension
except ImportError as error:
    raise SystemExit(
        "kerneldna-ops builds against PyTorch, which is not importable here. Either run plain `pip install .`, which"
        " fetches it for the build, or install torch>=2.11 first and add --no-build-isolation."
    ) from error

ROOT = Path(__file__).parent

# The oldest torch and Python that a built wheel runs on. pyproject.toml repeats them (a test compares the two).
TORCH_FLOOR = (2, 11)
PYTHON_FLOOR = (3, 10)
DEFAULT_CUDA_ARCHS = "8.0;8.6;8.9;9.0a;10.0;12.0+PTX"


def switch(name: str) -> bool:
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "off", "no")


def find_nvcc() -> str | None:
    """The version of nvcc, or None where there is none."""
    home = cpp_extension.CUDA_HOME
    if home is None or not (nvcc := Path(home) / "bin" / "nvcc").exists():
        return None
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return text.split("release ")[1].split(",")[0]


def cuda_sources() -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "cuda").rglob("*.cu"))


def wants_cuda(nvcc: str | None) -> bool:
    if switch("KERNELDNA_NO_CUDA"):
        if switch("KERNELDNA_FORCE_CUDA"):
            raise SystemExit("KERNELDNA_NO_CUDA and KERNELDNA_FORCE_CUDA exclude each other, both are set")
        return False
    if switch("KERNELDNA_FORCE_CUDA") and nvcc is None:
        raise SystemExit("KERNELDNA_FORCE_CUDA is set, but there is no nvcc: install a CUDA toolkit or set CUDA_HOME")
    if switch("KERNELDNA_FORCE_CUDA") and not cuda_sources():
        raise SystemExit("KERNELDNA_FORCE_CUDA is set, but this version of kerneldna-ops has no CUDA sources yet")
    return nvcc is not None and bool(cuda_sources())


def version_number(version: tuple[int, ...]) -> str:
    """The floor in the form of TORCH_TARGET_VERSION: one byte each for major, minor and patch, from the top."""
    return f"0x{version[0]:02x}{version[1]:02x}" + "0" * 12


def extension():
    nvcc = find_nvcc()
    cuda = wants_cuda(nvcc)
    debug = switch("DEBUG")
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHS
    print(f"kerneldna-ops: torch {torch.__version__} to build with, torch >= {TORCH_FLOOR[0]}.{TORCH_FLOOR[1]} to run")
    print(f"kerneldna-ops: CUDA {f'{nvcc} for {archs}' if cuda else 'not built (CPU only)'}, DEBUG = {debug}", flush=True)

    sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.cpp"))
    common = [
        f"-DPy_LIMITED_API=0x{PYTHON_FLOOR[0]:02x}{PYTHON_FLOOR[1]:02x}0000",
        f"-DTORCH_TARGET_VERSION={version_number(TORCH_FLOOR)}",
        "-O0" if debug else "-O3",
        "-std=c++20",
    ]
    if debug:
        common.append("-g")
    flags = {"cxx": [*common, "-Wall", "-fvisibility=hidden"]}
    build = cpp_extension.CppExtension
    if cuda:
        os.environ["TORCH_CUDA_ARCH_LIST"] = archs
        sources += cuda_sources()
        common += ["-DKERNELDNA_WITH_CUDA", "-DUSE_CUDA"]
        flags["cxx"] += [f'-DKERNELDNA_CUDA_VERSION="{nvcc}"', f'-DKERNELDNA_CUDA_ARCHS="{archs}"']
        flags["nvcc"] = common
        build = cpp_extension.CUDAExtension
    return build("kerneldna_ops._C", sources, extra_compile_args=flags, py_limited_api=True)


if __name__ == "__main__":
    setup(
        ext_modules=[extension()],
        cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(use_ninja=True)},
        options={"bdist_wheel": {"py_limited_api": f"cp{PYTHON_FLOOR[0]}{PYTHON_FLOOR[1]}"}},
    )
