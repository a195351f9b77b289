"""Makes a checkout importable where it was not installed: builds the op library, finds the kernels and the tests.

Knows nothing of torch or of the package, so that it can run before either is imported.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build() -> None:
    """The op library for the CPU, if it is not there. Raises SystemExit with the compiler's last words."""
    if any((ROOT / "kerneldna_ops").glob("_C.*so")):
        return
    print("building the op library", flush=True)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "KERNELDNA_NO_CUDA": "1"}, capture_output=True, text=True
    )
    if built.returncode:
        raise SystemExit(f"the op library does not build:\n{(built.stdout + built.stderr)[-2000:]}")


def ready() -> None:
    """Lets this process import kerneldna_ops, kerneldna_ops.triton_kernels and the modules of tests/."""
    for folder in (str(ROOT / "tests"), str(ROOT)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    import kerneldna_ops

    # An installation says where this package of another folder lies; here the folder has its name.
    if importlib.util.find_spec("kerneldna_ops.triton_kernels") is None:
        kerneldna_ops.__path__.append(str(ROOT))
