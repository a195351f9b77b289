"""What everything runs on: an NVIDIA GPU, or for a dry run the CPU with Triton's interpreter."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton

from benchmarks.process import commit, cpu_model

# Precision -> dtype, and whether PyTorch allows TF32 for convolutions.
PRECISIONS = {
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
}
_QUERY = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit")
_DRY_L2 = 1 << 12


@dataclass(frozen=True)
class Machine:
    """arch: 90 for sm_90, 0 in a dry run. l2: bytes."""

    dry: bool
    device: torch.device
    name: str
    arch: int
    multiprocessors: int
    l2: int

    @classmethod
    def found(cls, dry: bool) -> "Machine":
        if dry:
            return cls(True, torch.device("cpu"), "dry run", 0, 1, _DRY_L2)
        if not torch.cuda.is_available():
            raise SystemExit("no CUDA device: nothing to check (--dry-run tries this script on the CPU)")
        properties = torch.cuda.get_device_properties(0)
        arch = 10 * properties.major + properties.minor
        if arch < 80:
            raise SystemExit(f"{properties.name} is sm_{arch}, sm_80 or newer is needed")
        cores, l2 = properties.multi_processor_count, properties.L2_cache_size
        return cls(False, torch.device("cuda", 0), properties.name, arch, cores, l2)

    @property
    def precisions(self) -> list[str]:
        """Triton's interpreter miscalculates bfloat16 and takes TF32 for float32."""
        return ["fp16", "fp32"] if self.dry else list(PRECISIONS)

    def synchronize(self) -> None:
        if not self.dry:
            torch.cuda.synchronize(self.device)


@contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """The dtype; while it lasts, convolutions may use TF32 or not."""
    dtype, tf32 = PRECISIONS[name]
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield dtype
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def environment(machine: Machine, commit_given: str | None) -> dict[str, Any]:
    return {
        "device": machine.name,
        "arch": machine.arch,
        "multiprocessors": machine.multiprocessors,
        "l2": machine.l2,
        "gpu": {} if machine.dry else gpu_state(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": None if machine.dry else torch.backends.cudnn.version(),
        "triton": triton.__version__,
        "nvcc": _last_line("nvcc", "--version"),
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "commit": commit_given or _commit(),
    }


def gpu_state() -> dict[str, str]:
    """What the driver says of the first GPU now."""
    line = _last_line("nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader", "--id=0")
    return dict(zip(_QUERY, line.split(", "), strict=False)) if line else {}


def _last_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    lines = subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()
    return lines[-1] if lines else None


def _commit() -> str:
    return commit() if shutil.which("git") else "unknown"
