"""Peak memory on the CPU, as the operating system sees it: a process for each figure."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes: RssAnon and VmRSS are of now, VmHWM is the peak."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {field}: peak memory is measured on Linux only")


def highest_during(call: Callable[[], object]) -> int:
    """Bytes that become resident at most during the call, program files aside; its result counts."""
    gc.collect()  # garbage of before that went during the call would hide some of it
    RESET.write_text("5")  # sets VmHWM to what is resident now
    baseline, code = resident("VmRSS"), resident("RssFile")
    result = call()
    highest = resident("VmHWM") - (resident("RssFile") - code)
    del result
    return max(0, highest - baseline)


def of_a_process(module: str, *arguments: str) -> float | None:
    """The bytes that `python -m module arguments` prints, in MiB; None without Linux's /proc.

    Taken in a process of its own, so that nothing done before is in it; everything that the process allocates is,
    scratch memory of the kernels included. The C library is told to give every large block back at once
    (MALLOC_MMAP_THRESHOLD_), or its reserves would be counted as need.
    """
    if not RESET.exists():
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
    return int(process.stdout) / 2**20
