"""Peak memory on the CPU, as the operating system sees it: a process for each figure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def resident_peak() -> float:
    """MiB that were resident in this process at most."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def of_a_process(module: str, *arguments: str) -> float | None:
    """The MiB that `python -m module arguments` prints; None without /proc.

    Taken in a process of its own, so that nothing done before is in it; everything that the process allocates is,
    scratch memory of the kernels included. The C library is told to give every large block back at once
    (MALLOC_MMAP_THRESHOLD_), or its reserves would be counted as need.
    """
    if not STATUS.exists():
        return None
    # A session of its own: Ctrl-C reaches the parent alone, which then ends this one.
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    )
    return float(process.stdout)
