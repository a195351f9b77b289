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
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

try:
    import torch
    from torch.utils import cpp_extension
except ImportError as error:
    raise SystemExit(
        "kerneldna-ops builds against PyTorch, which is not importable here: first, for your CPU or GPU as pytorch.org"
        " says, `pip install 'torch>=2.11' 'setuptools>=77' ninja`, then `pip install --no-build-isolation .`; without"
        " that option pip downloads a torch for the build alone, about 3 GB"
    ) from error

ROOT = Path(__file__).parent

# The oldest torch and Python that a built wheel runs on. pyproject.toml repeats them (a test compares the two).
TORCH_FLOOR = (2, 11)
PYTHON_FLOOR = (3, 10)
DEFAULT_CUDA_ARCHS = "8.0;8.6;8.9;9.0a;10.0+PTX;12.0"
# The oldest compilers that the sources were compiled with.
OLDEST_COMPILERS = {"GCC": 11, "clang": 14}
OLDEST_CUDA_ARCH = (8, 0)  # csrc/cuda/kernels/launch.h
# The names that PyTorch has for some of them.
NAMED_CUDA_ARCHS = {
    "Volta": "7.0+PTX",
    "Turing": "7.5+PTX",
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}
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
        # GCC 12 takes its own intrinsics for uses of uninitialised values. clang does not know the last of these.
        *("-Wno-unknown-warning-option", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    ],
}
IS_X86_64 = platform.machine().lower() in ("x86_64", "amd64")


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
        check_compiler(self.compiler.compiler_so_cxx)
        self.compiler.compile = self.compile_with_ninja
        super().build_extension(ext)

    def compile_with_ninja(
        self, sources: list[str], output_dir: str, include_dirs: list[str], extra_postargs: dict, **_: object
    ) -> list[str]:
        # The slowest first. Paths are relative, so that a compiler cache knows a file again in another checkout.
        sources = sorted(sources, key=lambda source: (not is_cuda(source), not vector_suffix(source), source))
        includes = [f"-I{folder}" for folder in (*include_dirs, *self.compiler.include_dirs)]
        lines = [NINJA_RULES.format(folder=ninja_escaped(output_dir))]
        objects = []
        for source in sources:
            objects.append(os.path.join(output_dir, vector_suffix(source).strip("_"), f"{source}.o"))
            rule = "compile"
            if is_cuda(source) and "nvcc" in extra_postargs:
                rule, flags = "compile_with_nvcc", extra_postargs["nvcc"]
                compiler = nvcc_command() if os.environ.get("PYTORCH_NVCC") else cached(nvcc_command())
            else:
                language = ["-x", "c++"] if is_cuda(source) else []
                compiler = [*cached(self.compiler.compiler_so_cxx), *language]
                flags = [*extra_postargs["cxx"], *VECTOR_FLAGS.get(vector_suffix(source), [])]
            lines.append(f"build {ninja_escaped(objects[-1])}: {rule} {ninja_escaped(source)}")
            lines.append("  compiler = " + shlex.join(compiler).replace("$", "$$"))
            lines.append("  flags = " + shlex.join([*includes, *flags]).replace("$", "$$"))
        plan = Path(output_dir, "build.ninja")
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text("\n".join(lines) + "\n")
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([find_ninja(), "-f", plan, *jobs]).returncode:
            raise SystemExit("kerneldna-ops: a source did not compile, see above")
        return objects


# Where ptxas makes tensor core products wait for one another it only remarks on it, C75xx: the results stay right.
NINJA_RULES = r"""builddir = {folder}
rule compile
  command = $compiler -MD -MF $out.d -c $in -o $out $flags
  description = $in
  depfile = $out.d
  deps = gcc
rule compile_with_nvcc
  command = said=$$($compiler -MD -MF $out.d -c $in -o $out $flags 2>&1); result=$$?; $
    [ -z "$$said" ] || printf '%s\n' "$$said"; $
    if remark=$$(printf '%s\n' "$$said" | grep -m 1 '(C75[0-9][0-9])'); then rm -f $out; result=1; $
    echo "kerneldna-ops: $in must not have its tensor core products serialised, ptxas says: $$remark"; fi; $
    exit $$result
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


def check_compiler(command: list[str]) -> None:
    """Refuses, in one sentence, what would fail in the middle of the build."""
    needed = " or ".join(f"{name} {version} or newer" for name, version in OLDEST_COMPILERS.items())
    needed = f"{needed} is needed (Debian and Ubuntu: apt install g++), which CC and CXX choose"
    try:
        done = subprocess.run([*command, "-x", "c++", "-dM", "-E", os.devnull], capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"kerneldna-ops: there is no C++ compiler {command[0]!r}: {needed}") from error
    if done.returncode:
        raise SystemExit(f"kerneldna-ops: {shlex.join(command)} does not work: {last_line(done.stderr)}; {needed}")
    versions = dict(re.findall(r"#define (__GNUC__|__clang_major__) (\d+)", done.stdout))
    name, macro = ("clang", "__clang_major__") if "__clang_major__" in versions else ("GCC", "__GNUC__")
    if int(versions.get(macro, 0)) < OLDEST_COMPILERS[name]:
        raise SystemExit(
            f"kerneldna-ops: {shlex.join(command)} is {name} {versions.get(macro, 'of no version')}: {needed}"
        )


def cached(compiler: list[str]) -> list[str]:
    """With ccache in front where it is installed, as torch's own BuildExtension has it."""
    wanted = shutil.which("ccache") and "TORCH_NO_COMPILER_WRAPPER" not in os.environ
    return ["ccache", *compiler] if wanted and Path(compiler[0]).name != "ccache" else compiler


def switch(name: str) -> bool:
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "off", "no")


def find_sources(ending: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob(f"*{ending}"))


class Toolkit(NamedTuple):
    """What compiles CUDA code, and where what such code needs is."""

    home: Path
    include: Path
    library: Path


def toolkit_in(home: Path) -> Toolkit | None:
    """The toolkit in a folder, as NVIDIA's installers lay it out, conda or pip."""
    machine = {"aarch64": "sbsa"}.get(platform.machine(), platform.machine())
    roots = (home, home / f"targets/{machine}-linux")
    includes = [root / "include" for root in roots]
    libraries = [root / name for root in roots for name in ("lib64", "lib")]
    include = next((folder for folder in includes if (folder / "cuda_runtime.h").exists()), None)
    library = next((folder for folder in libraries if (folder / "libcudart_static.a").exists()), None)
    complete = (home / "bin/nvcc").exists() and include and library
    return Toolkit(home, include, library) if complete else None


def find_toolkit() -> Toolkit | None:
    """torch's own CUDA_HOME is None under CPU-only torch, which can build CUDA code all the same."""
    nvcc = shutil.which("nvcc")
    of_path = [path.parent.parent for path in (Path(nvcc), Path(nvcc).resolve())] if nvcc else []
    of_variables = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = (*of_variables, *of_path, *wheels_of_nvidia(), Path("/usr/local/cuda"))
    return next(filter(None, map(toolkit_in, places)), None)


def wheels_of_nvidia() -> list[Path]:
    """Where pip puts them: nvidia/cu13. Those of CUDA 12 have no nvcc."""
    package = find_spec("nvidia")
    folders = package.submodule_search_locations if package else None
    return [path for folder in folders or () for path in sorted(Path(folder).glob("cu*"))]


def nvcc_command() -> list[str]:
    if chosen := os.environ.get("PYTORCH_NVCC"):
        return shlex.split(chosen)
    return [str(find_toolkit().home / "bin/nvcc")]


def ask_nvcc(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*nvcc_command(), *arguments], capture_output=True, text=True)


def nvcc_version() -> str:
    done = ask_nvcc("--version")
    if (found := re.search(r"release (\d+\.\d+)", done.stdout)) is None:
        raise SystemExit(f"kerneldna-ops: {shlex.join(nvcc_command())} does not work: {last_line(done.stderr)}")
    return found[1]


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def choose_cuda() -> tuple[Toolkit | None, str]:
    """The CUDA toolkit to build with, or None and why the build is CPU-only. Whether a GPU is present plays no part."""
    forced = switch("KERNELDNA_FORCE_CUDA")
    if switch("KERNELDNA_NO_CUDA"):
        if forced:
            raise SystemExit("KERNELDNA_NO_CUDA and KERNELDNA_FORCE_CUDA exclude each other, both are set")
        return None, "KERNELDNA_NO_CUDA is set"
    if not forced and not torch.version.cuda:
        return None, "so is this torch; KERNELDNA_FORCE_CUDA=1 builds CUDA kernels all the same"
    if toolkit := find_toolkit():
        return toolkit, ""
    missing = "there is no CUDA toolkit (bin/nvcc, cuda_runtime.h and libcudart_static.a)"
    advice = "install NVIDIA's, conda's cuda-toolkit or pip's nvidia-cuda-nvcc and nvidia-cuda-cccl, or set CUDA_HOME"
    if forced:
        raise SystemExit(f"KERNELDNA_FORCE_CUDA is set, but {missing}: {advice}")
    why_not = f"this torch is for CUDA {torch.version.cuda}, but {missing}"
    return None, f"{why_not}; for CUDA kernels {advice}, and build again"


class Arch(NamedTuple):
    """One of TORCH_CUDA_ARCH_LIST."""

    name: str
    capability: tuple[int, int]
    flags: tuple[str, ...]  # of nvcc


def parse_archs(archs: str) -> list[Arch]:
    """A list as PyTorch has it, "8.0;10.0+PTX". Kernels for 9.0 need what 9.0a adds."""
    parsed = []
    named = [NAMED_CUDA_ARCHS.get(name, name) for name in archs.replace(" ", ";").split(";")]
    for arch in ";".join(named).split(";"):
        if (parts := re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", arch)) is None:
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST must be numbers like 8.0;9.0a;10.0+PTX, or one of {', '.join(NAMED_CUDA_ARCHS)},"
                f" got {arch!r} in {archs!r}"
            )
        number = parts[1] + parts[2] + parts[3]
        machine = "90a" if number == "90" else number
        flags = [f"-gencode=arch=compute_{machine},code=sm_{machine}"]
        if parts[4]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        parsed.append(Arch(arch, (int(parts[1]), int(parts[2])), tuple(flags)))
    return parsed


def choose_archs(asked: str | None, nvcc: str) -> list[Arch]:
    """Those to build for; a line for those that are left out."""
    archs = parse_archs(asked or DEFAULT_CUDA_ARCHS)
    needed = "{}.{}".format(*OLDEST_CUDA_ARCH)
    if too_old := [arch.name for arch in archs if arch.capability < OLDEST_CUDA_ARCH]:
        print(f"kerneldna-ops: not for {' '.join(too_old)}, because the kernels need compute capability {needed}")
    archs = [arch for arch in archs if arch.capability >= OLDEST_CUDA_ARCH]
    if not archs:
        raise SystemExit(f"TORCH_CUDA_ARCH_LIST must have {needed} or newer, which the kernels need, got {asked!r}")
    refusals = {arch: refusal for arch in archs if (refusal := refusal_of(arch))}
    for arch, refusal in refusals.items():
        if asked:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST has {arch.name}, which nvcc {nvcc} does not take: {refusal}")
        if len(refusals) == len(archs):
            raise SystemExit(f"nvcc {nvcc} takes none of the architectures {DEFAULT_CUDA_ARCHS}: {refusal}")
        print(f"kerneldna-ops: not for {arch.name}, which nvcc {nvcc} does not take: {refusal}")
    return [arch for arch in archs if arch not in refusals]


def refusal_of(arch: Arch) -> str:
    """What nvcc has against it, or nothing."""
    done = ask_nvcc("--dryrun", *arch.flags, "-x", "cu", "-c", os.devnull, "-o", os.devnull)
    return last_line(done.stderr) if done.returncode else ""


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


def check_python() -> None:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise SystemExit(
            "kerneldna-ops: this Python is free-threaded and has no stable ABI (abi3), for which the library is built:"
            f" a Python with the GIL is needed, {PYTHON_FLOOR[0]}.{PYTHON_FLOOR[1]} or newer"
        )


def extension() -> Extension:
    check_python()
    sources = find_sources(".cpp")
    if not IS_X86_64:
        sources = [source for source in sources if not vector_suffix(source)]
    flags = common_flags()
    # GCC's functions for float16 from the static library: the shared one has them only since GCC 12.
    # Nothing but weak symbols may be missing: found here, not when the library is loaded.
    link_flags = ["-lgcc", "-Wl,-z,defs", *([] if switch("DEBUG") else ["-Wl,--strip-debug"])]
    compile_flags = {}
    options: dict[str, list[str]] = {}
    toolkit, why_not = choose_cuda()
    cuda_about = f"not built (CPU only): {why_not}"
    if toolkit:
        version = nvcc_version()
        archs = choose_archs(os.environ.get("TORCH_CUDA_ARCH_LIST"), version)
        names = " ".join(arch.name for arch in archs)
        cuda_about = f"{version} from {toolkit.home} for {names}"
        if not switch("KERNELDNA_FORCE_CUDA"):
            print("kerneldna-ops: CUDA kernels take minutes to compile; KERNELDNA_NO_CUDA=1 leaves them out")
        sources += find_sources(".cu")
        flags += ["-DUSE_CUDA", "-DKERNELDNA_WITH_CUDA"]
        flags += [f'-DKERNELDNA_CUDA_VERSION="{version}"', f'-DKERNELDNA_CUDA_ARCHS="{names}"']
        arch_flags = dict.fromkeys(flag for arch in archs for flag in arch.flags)
        compile_flags["nvcc"] = [*flags, *arch_flags, *NVCC_FLAGS]
        # The runtime's functions stay inside, or they would meet those of the CUDA runtime that torch brings.
        link_flags.append("-Wl,--exclude-libs,libcudart_static.a")
        # Not CUDAExtension: it would link torch_cuda, which CPU-only torch lacks and the stable ABI does not need.
        options = {
            "include_dirs": [str(toolkit.include)],
            "library_dirs": [str(toolkit.library)],
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


def label(library: Extension) -> str:
    """What tells a build with CUDA kernels apart: version 0.1.0+cu130."""
    found = re.search(r'CUDA_VERSION="(\d+)\.(\d+)"', " ".join(library.extra_compile_args["cxx"]))
    return f"+cu{found[1]}{found[2]}" if found else ""


if __name__ == "__main__":
    library = extension()
    setup(
        # A package named triton_kernels exists elsewhere and must not be shadowed: hence ours goes inside.
        packages=[*find_packages(include=["kerneldna_ops*"]), "kerneldna_ops.triton_kernels"],
        package_dir={"kerneldna_ops.triton_kernels": "triton_kernels"},
        ext_modules=[library],
        cmdclass={"build_ext": BuildExtension},
        options={
            # As torch's own. The source archive is for either kind of build.
            "egg_info": {"tag_build": label(library) if "sdist" not in sys.argv else ""},
            "bdist_wheel": {"py_limited_api": f"cp{PYTHON_FLOOR[0]}{PYTHON_FLOOR[1]}"},
            # Each kind of build keeps its objects.
            "build": {"build_base": "build/cuda" if any(map(is_cuda, library.sources)) else "build"},
        },
    )
