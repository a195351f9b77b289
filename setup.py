"""Builds the op library kerneldna_ops/_C.abi3.so; everything else about the package stands in pyproject.toml.

Environment: KERNELDNA_NO_CUDA, KERNELDNA_FORCE_CUDA, TORCH_CUDA_ARCH_LIST, CUDA_HOME, MAX_JOBS, DEBUG. As for all that
builds with torch: CXX, PYTORCH_NVCC; ccache is used where it is installed, unless TORCH_NO_COMPILER_WRAPPER is set.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

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
NVCC_FLAGS = [
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-Xptxas=--warn-on-spills",
    "-Xfatbin=-compress-all",
]

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


# What runs the CUDA kernels' source on the CPU, for tests (tests/cuda/build_host_kernels.py): not in this library.
HOST_EXECUTION = "csrc/cuda/host_execution/"


def is_cuda(source: str) -> bool:
    return source.endswith(".cu")


def vector_suffix(source: str) -> str:
    return next((suffix for suffix in VECTOR_FLAGS if Path(source).stem.endswith(suffix)), "")


class BuildExtension(build_ext):
    """Compiles in one run of ninja, which starts at most MAX_JOBS compilers and compiles only what changed.

    torch's own BuildExtension has one set of flags for all C++ files, and needs a CUDA build of torch to know which
    headers a *.cu reads."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # ninja knows what is up to date

    def build_extension(self, ext: Extension) -> None:
        self.compiler.compile = self.compile_with_ninja
        super().build_extension(ext)

    def compile_with_ninja(
        self, sources: list[str], output_dir: str, include_dirs: list[str], extra_postargs: dict, **_: object
    ) -> list[str]:
        # The slowest first. Paths are relative, so that a compiler cache knows a file again in another checkout.
        sources = sorted(sources, key=lambda source: (not is_cuda(source), not vector_suffix(source), source))
        includes = [f"-I{folder}" for folder in (*include_dirs, *self.compiler.include_dirs)]
        lines = [NINJA_RULE.format(folder=ninja_escaped(output_dir))]
        objects = []
        for source in sources:
            objects.append(os.path.join(output_dir, vector_suffix(source).strip("_"), f"{source}.o"))
            if is_cuda(source) and "nvcc" in extra_postargs:
                compiler, flags = nvcc_command(), extra_postargs["nvcc"]
            else:
                language = ["-x", "c++"] if is_cuda(source) else []
                compiler = [*cached(self.compiler.compiler_so_cxx), *language]
                flags = [*extra_postargs["cxx"], *VECTOR_FLAGS.get(vector_suffix(source), [])]
            lines.append(f"build {ninja_escaped(objects[-1])}: compile {ninja_escaped(source)}")
            lines.append("  compiler = " + shlex.join(compiler).replace("$", "$$"))
            lines.append("  flags = " + shlex.join([*includes, *flags]).replace("$", "$$"))
        plan = Path(output_dir, "build.ninja")
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text("\n".join(lines) + "\n")
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([find_ninja(), "-f", plan, *jobs]).returncode:
            raise SystemExit("kerneldna-ops: a source did not compile, see above")
        return objects


NINJA_RULE = """builddir = {folder}
rule compile
  command = $compiler -MD -MF $out.d -c $in -o $out $flags
  description = $in
  depfile = $out.d
  deps = gcc"""


def ninja_escaped(path: str) -> str:
    return re.sub(r"([$ :])", r"$\1", path)


def find_ninja() -> str:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if (found := shutil.which("ninja", path=places)) is None:
        raise SystemExit("kerneldna-ops is built by ninja, which is not on PATH: `pip install ninja`")
    return found


def cached(compiler: list[str]) -> list[str]:
    """With ccache in front where it is installed, as torch's own BuildExtension has it."""
    wanted = shutil.which("ccache") and "TORCH_NO_COMPILER_WRAPPER" not in os.environ
    return ["ccache", *compiler] if wanted and Path(compiler[0]).name != "ccache" else compiler


def nvcc_command() -> list[str]:
    if chosen := os.environ.get("PYTORCH_NVCC"):
        return shlex.split(chosen)
    return cached([str(find_cuda_home() / "bin/nvcc")])


def switch(name: str) -> bool:
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "off", "no")


def find_sources(ending: str) -> list[str]:
    found = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob(f"*{ending}"))
    return [source for source in found if not source.startswith(HOST_EXECUTION)]


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


def arch_flags(archs: str) -> list[str]:
    """nvcc's flags for a list as TORCH_CUDA_ARCH_LIST has it: "8.0;9.0a+PTX". Kernels for 9.0 need what 9.0a adds."""
    flags = []
    for arch in archs.replace(" ", ";").split(";"):
        if (parts := re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)) is None:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST must be numbers like 8.0;9.0a;12.0+PTX, got {arch!r} in {archs!r}")
        number = parts[1] + parts[2]
        machine = "90a" if number == "90" else number
        flags.append(f"-gencode=arch=compute_{machine},code=sm_{machine}")
        if parts[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def version_number(version: tuple[int, int]) -> str:
    """The floor in the form of TORCH_TARGET_VERSION: one byte each for major, minor and patch, from the top."""
    return f"0x{version[0]:02x}{version[1]:02x}" + "0" * 12


def common_flags() -> list[str]:
    return [
        f"-DPy_LIMITED_API=0x{PYTHON_FLOOR[0]:02X}{PYTHON_FLOOR[1]:02X}0000",
        f"-DTORCH_TARGET_VERSION={version_number(TORCH_FLOOR)}",
        "-std=c++20",
        *(["-O0", "-g"] if switch("DEBUG") else ["-O3"]),
    ]


def extension() -> Extension:
    sources, cuda_sources = find_sources(".cpp"), find_sources(".cu")
    if not IS_X86_64:
        sources = [source for source in sources if not vector_suffix(source)]
    flags = common_flags()
    # GCC's functions for float16 from the static library: the shared one has them only since GCC 12.
    # Nothing but weak symbols may be missing: found here, not when the library is loaded.
    link_flags = ["-lgcc", "-Wl,-z,defs", *([] if switch("DEBUG") else ["-Wl,--strip-debug"])]
    compile_flags = {}
    cuda_about = "not built (CPU only)"
    options: dict[str, list[str]] = {}
    if home := choose_cuda(cuda_sources):
        version = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
        version = version.split("release ")[1].split(",")[0]
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHS
        cuda_about = f"{version} from {home} for {archs}"
        sources += cuda_sources
        flags += ["-DUSE_CUDA", "-DKERNELDNA_WITH_CUDA"]
        # Without ";", which separates what build_info says.
        named = archs.replace(";", " ")
        flags += [f'-DKERNELDNA_CUDA_VERSION="{version}"', f'-DKERNELDNA_CUDA_ARCHS="{named}"']
        compile_flags["nvcc"] = [*flags, *arch_flags(archs), *NVCC_FLAGS]
        # The runtime's functions stay inside, or they would meet those of the CUDA runtime that torch brings.
        link_flags.append("-Wl,--exclude-libs,libcudart_static.a")
        # Not CUDAExtension: it would link torch_cuda, which CPU-only torch lacks and the stable ABI does not need.
        options = {
            "include_dirs": [f"{home}/include"],
            "library_dirs": [f"{home}/lib64"],
            "libraries": ["cudart_static", "rt", "dl", "pthread"],
        }
    compile_flags["cxx"] = [*flags, "-Wall", "-fvisibility=hidden"]
    print(f"kerneldna-ops: torch {torch.__version__} to build with, torch >= {TORCH_FLOOR[0]}.{TORCH_FLOOR[1]} to run")
    print(f"kerneldna-ops: CUDA {cuda_about}")
    print(
        f"kerneldna-ops: vector code {'avx2 and avx512' if IS_X86_64 else 'portable'}, DEBUG = {switch('DEBUG')}",
        flush=True,
    )
    return cpp_extension.CppExtension(
        "kerneldna_ops._C",
        sources,
        extra_compile_args=compile_flags,
        extra_link_args=link_flags,
        py_limited_api=True,
        **options,
    )


if __name__ == "__main__":
    library = extension()
    setup(
        # A package named triton_kernels exists elsewhere and must not be shadowed: hence ours goes inside.
        packages=[*find_packages(include=["kerneldna_ops*"]), "kerneldna_ops.triton_kernels"],
        package_dir={"kerneldna_ops.triton_kernels": "triton_kernels"},
        ext_modules=[library],
        cmdclass={"build_ext": BuildExtension},
        options={
            "bdist_wheel": {"py_limited_api": f"cp{PYTHON_FLOOR[0]}{PYTHON_FLOOR[1]}"},
            # Each kind of build keeps its objects.
            "build": {"build_base": "build/cuda" if any(map(is_cuda, library.sources)) else "build"},
        },
    )
