"""`python build.py FOLDER`, in the checkout: the op library with address and undefined-behaviour checks in it."""

import os
import sys

sys.path.insert(0, "")
os.environ |= {"KERNELDNA_NO_CUDA": "1", "KERNELDNA_FORCE_CUDA": "0"}

from setuptools import setup

import setup as project

# vptr needs type information that torch's own libraries do not give out.
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"]

extension = project.extension()
extension.extra_compile_args["cxx"] += ["-O1", "-g1", "-fno-omit-frame-pointer", *CHECKS]
extension.extra_link_args = CHECKS
folder = sys.argv[1]
setup(
    name="sanitized",
    packages=[],  # the test copies them
    ext_modules=[extension],
    cmdclass={"build_ext": project.BuildExtension},
    script_args=["-q", "build_ext", "--build-lib", folder, "--build-temp", f"{folder}/objects"],
)
