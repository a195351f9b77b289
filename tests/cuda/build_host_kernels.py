"""`python tests/cuda/build_host_kernels.py`, in the checkout: build/cuda_host/_cuda_host.*.so, the CUDA kernels' own
source compiled by the C++ compiler to run on the CPU (host_execution).

--sanitize address,undefined --folder FOLDER puts one with these checks in it into FOLDER."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, "")

import pybind11
from setuptools import setup
from torch.utils.cpp_extension import CppExtension

import setup as project

# Of the library's other sources, those that the host files of the CUDA ops call.
SHARED = ["csrc/checks.cpp", "csrc/conv_call.cpp", "csrc/squeeze_excite_checks.cpp"]


def extension(sanitize: str | None) -> CppExtension:
    runtime = sorted(str(path) for path in Path("tests/cuda/host_execution").glob("*.cpp"))
    ops = [source for source in project.find_sources(".cpp") if source.startswith("csrc/cuda/")]
    # vptr needs type information that torch's own libraries do not give out.
    checks = [f"-fsanitize={sanitize}", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"] if sanitize else []
    flags = [f"-DTORCH_TARGET_VERSION={project.version_number(project.TORCH_FLOOR)}", "-DKERNELDNA_HOST_EXECUTION"]
    optimise = ["-O1", "-fno-omit-frame-pointer"] if sanitize else ["-O2"]
    # As nvcc compiles them: its pragmas are no mistakes, and memory of one type may be read as another.
    as_cuda = ["-std=c++20", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]
    return CppExtension(
        "_cuda_host",
        [*SHARED, *ops, *project.find_sources(".cu"), *runtime],
        include_dirs=["tests/cuda", "csrc/cuda", "csrc", pybind11.get_include()],
        extra_compile_args={"cxx": [*as_cuda, *optimise, "-g1", "-Wall", "-fvisibility=hidden", *flags, *checks]},
        extra_link_args=checks,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sanitize", metavar="CHECKS")
    parser.add_argument("--folder", default="build/cuda_host")
    options = parser.parse_args()
    setup(
        name="host_kernels",
        packages=[],
        ext_modules=[extension(options.sanitize)],
        cmdclass={"build_ext": project.BuildExtension},
        script_args=["-q", "build_ext", "--build-lib", options.folder, "--build-temp", f"{options.folder}/objects"],
    )


if __name__ == "__main__":
    main()
