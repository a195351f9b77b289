"""Loads the C++ library, which defines the ops, and opens it for what Python adds to them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

try:
    from . import _C  # noqa: F401
except ImportError as error:
    here = Path(__file__).parent
    # What is installed has the kernels inside, what is a checkout beside it.
    installed = next((folder for folder in sys.path if Path(folder, here.name, "triton_kernels").exists()), None)
    if installed is not None and Path(installed, here.name) != here:
        raise ImportError(
            f"kerneldna_ops in {here.parent} has no C++ library and hides the installed one in {installed}: run Python"
            " in another folder, or install this one too, by `pip install --no-build-isolation -e .` in it"
        ) from error
    if "partially initialized module" in str(error):
        problem = "its C++ library was not built"
    else:
        problem = f"its C++ library does not load with torch {torch.__version__} ({error})"
    raise ImportError(
        f"kerneldna_ops cannot be used: {problem}. Run `pip install --no-build-isolation .` in its source tree; torch"
        " must be 2.11 or newer."
    ) from error

LIBRARY = torch.library.Library("kerneldna", "FRAGMENT")

# Nested tensors fall under no other key: what is registered here refuses them in a sentence.
NESTED = ("NestedTensorCPU", "NestedTensorCUDA")


def register_kernel(
    op: str | torch._ops.OpOverload, dispatch_key: str, kernel: Callable[..., Any], with_keyset: bool = False
) -> None:
    LIBRARY.impl(op, kernel, dispatch_key, with_keyset=with_keyset)


def build_info() -> dict[str, str]:
    """What the C++ library was built for and what it runs here.

    cpu_vector: the vector code chosen for this processor, "avx512", "avx2" or "portable".
    cuda, cuda_archs: the version of CUDA and the architectures of the GPU kernels; absent from a CPU-only build.
    """
    return dict(entry.split("=", 1) for entry in torch.ops.kerneldna._build_info().split(";"))
