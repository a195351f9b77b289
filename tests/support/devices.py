"""The devices that tests run on, as --device names them, and what runs on each of them.

"stand-in" plays a card where there is none: tensors on the CPU, Triton's kernels interpreted, and the CUDA kernels'
source run on the CPU (backend cuda_host) in place of the backend cuda. It shows that the tests of a card are right.
"""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kerneldna_ops import backends, explain_backends
from kerneldna_ops.call import Call
from support import cases

NAMES = ("cpu", "cuda", "stand-in")
CARDS = ("cuda", "stand-in")
# The backends with kernels of their own for it.
OF_A_CARD = {"cuda": ("triton", "cuda"), "stand-in": ("triton", "cuda_host")}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_ANY_NUMBER = re.compile(r"\b\d+\b")  # the sizes of the call, for which there would be a line each

# What every backend has kernels for, in the dtypes that it has kernels for.
_ORDINARY = cases.Case(
    "ordinary",
    (2, 16, 5, 4),
    16,
    padding=(1, 1),
    groups=16,
    input_layout="channels_last",
    weight_layout="channels_last",
)


def present() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def place(name: str) -> torch.device:
    return torch.device("cuda", 0) if name == "cuda" else torch.device("cpu")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions in float32 may take TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@functools.cache
def explained(name: str, dtype: torch.dtype = torch.float16, allow_tf32: bool = False) -> dict[str, tuple[bool, str]]:
    """Backend -> (whether it runs on that device, why or why not)."""
    with tf32(allow_tf32):
        return explain_backends(**cases.build(_ORDINARY, dtype, place(name))._asdict())


def usual_backends(name: str) -> list[str]:
    """What is tested unless the command line says otherwise. tests/cuda has a sample for the others: they are slow."""
    usual = {*backends.AUTOMATIC, "cuda_host"} - {"cpu"} if name == "stand-in" else backends.AUTOMATIC
    return [backend for backend, (runs, _) in explained(name).items() if runs and backend in usual]


def skip_unless_it_runs(backend: str, call: Call) -> None:
    """For calls that a backend has no kernel for, which composite answers; the summary counts them by their reasons.

    What a backend finds out only in the call, such as a kernel that cannot be built, is no such reason: it fails.
    """
    runs, reason = backends.module_of(backend).can_run(call)
    if not runs:
        pytest.skip(f"{backend}: {_ANY_NUMBER.sub('n', reason)}")
