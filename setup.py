"""Builds the op library kerneldna_ops/_C.abi3.so; everything else about the package stands in pyproject.toml.

Environment: KERNELDNA_NO_CUDA, KERNELDNA_FORCE_CUDA, TORCH_CUDA_ARCH_LIST, CUDA_HOME, MAX_JOBS, DEBUG."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup

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

# Files whose names end so hold code for one instruction set, and the library chooses among them when it runs. Only they
# are compiled with these flags, so that nothing else needs more than the baseline processor.
VECTOR_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
        # GCC 12 takes its own intrinsics for uses of uninitialised values.
        *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    ],
}
IS_X86_64 = platform.machine().lower() in ("x86_64", "amd64")


def vector_suffix(source: str) -> str:
    return next((suffix for suffix in VECTOR_FLAGS if Path(source).stem.endswith(suffix)), "")


class BuildExtension(cpp_extension.BuildExtension):
    """One ninja run for the baseline and one for each instruction set, in a folder of its own, all at the same time."""

    def build_extension(self, ext: Extension) -> None:
        compile_with_ninja = self.compiler.compile

        def compile_all(sources: list[str], output_dir: str, extra_postargs: dict, **options) -> list[str]:
            def compile_set(suffix: str) -> list[str]:
                chosen = [source for source in sources if vector_suffix(source) == suffix]
                args = {**extra_postargs, "cxx": [*extra_postargs["cxx"], *VECTOR_FLAGS.get(suffix, [])]}
                folder = os.path.join(output_dir, suffix.strip("_"))
                return compile_with_ninja(chosen, output_dir=folder, extra_postargs=args, **options)

            suffixes = sorted(set(map(vector_suffix, sources)))
            with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or len(suffixes))) as pool:
                return [path for paths in pool.map(compile_set, suffixes) for path in paths]

        self.compiler.compile = compile_all
        super().build_extension(ext)


def switch(name: str) -> bool:
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "off", "no")


def find_sources(folder: str, ending: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(f"*{ending}"))


def find_cuda_home() -> Path | None:
    """The CUDA toolkit. torch's own CUDA_HOME is None under CPU-only torch, which can build CUDA code all the same."""
    nvcc = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).parent.parent, "/usr/local/cuda"]
    parts = ("bin/nvcc", "include/cuda_runtime.h", "lib64/libcudart_static.a")
    return next((home for home in map(Path, filter(None, places)) if all((home / p).exists() for p in parts)), None)


def choose_cuda(sources: list[str]) -> Path | None:
    """The CUDA toolkit to build with, or None for a CPU-only build. Whether a GPU is present plays no part."""
    home = find_cuda_home()
    forced = switch("KERNELDNA_FORCE_CUDA")
    if switch("KERNELDNA_NO_CUDA"):
        if forced:
            raise SystemExit("KERNELDNA_NO_CUDA and KERNELDNA_FORCE_CUDA exclude each other, both are set")
        return None
    if forced and home is None:
        raise SystemExit("KERNELDNA_FORCE_CUDA is set, but there is no nvcc: install a CUDA toolkit or set CUDA_HOME")
    if forced and not sources:
        raise SystemExit("KERNELDNA_FORCE_CUDA is set, but this version of kerneldna-ops has no CUDA sources yet")
    return home if sources and (forced or torch.version.cuda) else None


def version_number(version: tuple[int, int]) -> str:
    """The floor in the form of TORCH_TARGET_VERSION: one byte each for major, minor and patch, from the top."""
    return f"0x{version[0]:02x}{version[1]:02x}" + "0" * 12


def extension() -> Extension:
    sources, cuda_sources = find_sources("csrc", ".cpp"), find_sources("csrc", ".cu")
    if not IS_X86_64:
        sources = [source for source in sources if not vector_suffix(source)]
    debug = switch("DEBUG")
    flags = [
        f"-DPy_LIMITED_API=0x{PYTHON_FLOOR[0]:02X}{PYTHON_FLOOR[1]:02X}0000",
        f"-DTORCH_TARGET_VERSION={version_number(TORCH_FLOOR)}",
        "-std=c++20",
        *(["-O0", "-g"] if debug else ["-O3"]),
    ]
    cuda_about = "not built (CPU only)"
    options: dict[str, list[str]] = {}
    if home := choose_cuda(cuda_sources):
        version = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
        version = version.split("release ")[1].split(",")[0]
        archs = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHS)
        cuda_about = f"{version} from {home} for {archs}"
        sources += cuda_sources
        flags += ["-DUSE_CUDA", "-DKERNELDNA_WITH_CUDA"]
        flags += [f'-DKERNELDNA_CUDA_VERSION="{version}"', f'-DKERNELDNA_CUDA_ARCHS="{archs}"']
        # Both are for CPU-only torch, which builds CUDA code too: its own CUDA_HOME is None, and CUDAExtension would
        # link torch_cuda, which it does not have and the stable ABI does not need.
        cpp_extension.CUDA_HOME = str(home)
        options = {
            "include_dirs": [f"{home}/include"],
            "library_dirs": [f"{home}/lib64"],
            "libraries": ["cudart_static", "rt", "dl", "pthread"],
        }
    print(f"kerneldna-ops: torch {torch.__version__} to build with, torch >= {TORCH_FLOOR[0]}.{TORCH_FLOOR[1]} to run")
    print(f"kerneldna-ops: CUDA {cuda_about}")
    print(f"kerneldna-ops: vector code {'avx2 and avx512' if IS_X86_64 else 'portable'}, DEBUG = {debug}", flush=True)
    return cpp_extension.CppExtension(
        "kerneldna_ops._C",
        sources,
        extra_compile_args={
            "cxx": [*flags, "-Wall", "-fvisibility=hidden"],
            "nvcc": [*flags, "-Xcompiler=-fvisibility=hidden"],
        },
        extra_link_args=[] if debug else ["-Wl,--strip-debug"],
        py_limited_api=True,
        **options,
    )


if __name__ == "__main__":
    setup(
        # A package named triton_kernels exists elsewhere and must not be shadowed: hence ours goes inside.
        packages=[*find_packages(include=["kerneldna_ops*"]), "kerneldna_ops.triton_kernels"],
        package_dir={"kerneldna_ops.triton_kernels": "triton_kernels"},
        ext_modules=[extension()],
        cmdclass={"build_ext": BuildExtension},
        options={"bdist_wheel": {"py_limited_api": f"cp{PYTHON_FLOOR[0]}{PYTHON_FLOOR[1]}"}},
    )
