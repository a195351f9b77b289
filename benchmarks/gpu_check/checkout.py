"""Makes a checkout importable where it was not installed: builds the op library, finds the kernels and the tests.

Knows nothing of torch or of the package, so that it can run before either is imported.
"""

import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build() -> None:
    """The op library, if it is not there: with CUDA kernels for the GPU of this machine where nvcc is on the PATH, else
    for the CPU alone. Raises SystemExit with the compiler's last words."""
    if any((ROOT / "kerneldna_ops").glob("_C.*so")):
        return
    gpu = _architecture() if shutil.which("nvcc") else ""
    wanted = {"KERNELDNA_FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": gpu} if gpu else {"KERNELDNA_NO_CUDA": "1"}
    print(f"building the op library{f' with CUDA kernels for {gpu}' if gpu else ''}", flush=True)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    built = subprocess.run(command, cwd=ROOT, env={**os.environ, **wanted}, capture_output=True, text=True)
    if built.returncode:
        raise SystemExit(f"the op library does not build:\n{(built.stdout + built.stderr)[-2000:]}")


def _architecture() -> str:
    """Of the first GPU, as the build names it, "9.0a" for an H200; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", "--id=0"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return "9.0a" if found == "9.0" else found if found.replace(".", "").isdigit() else ""


class _InFolderOfAnotherName:
    """Finds the package of the kernels as an installation would: its folder is triton_kernels/ of the checkout."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "kerneldna_ops.triton_kernels":
            return None
        folder = ROOT / "triton_kernels"
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


def ready() -> None:
    """Lets this process import kerneldna_ops, kerneldna_ops.triton_kernels and the modules of tests/."""
    for folder in (str(ROOT / "tests"), str(ROOT)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    if _InFolderOfAnotherName not in sys.meta_path:
        sys.meta_path.append(_InFolderOfAnotherName)  # behind an installation's own
