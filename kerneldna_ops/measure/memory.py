"""Peak memory: on the CPU as the operating system sees it, in a process for each figure, on a GPU as torch counts."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
# glibc's allocator gives back at once what is freed, or its reserves would be counted as need.
RETURN_MEMORY = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


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


def in_a_process(peak: Callable[..., int], *arguments: object) -> int | None:
    """peak(*arguments), bytes, from a process of its own, so that nothing done before is in it; None without Linux's
    /proc. All that the process allocates counts, scratch memory of the kernels included.

    `peak` is found by its name, in a module that is no script; modules are looked for where this process finds them,
    and torch computes with as many threads as here.
    """
    if not RESET.exists():
        return None
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    # A session of its own: Ctrl-C reaches the parent alone, which then ends this one.
    process = subprocess.run(
        [sys.executable, "-m", __name__],
        env=os.environ | RETURN_MEMORY | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        input=pickle.dumps((torch.get_num_threads(), peak, arguments)),
        stdout=subprocess.PIPE,
        check=True,
        start_new_session=True,
    )
    return int(process.stdout)


def peak_on_gpu(call: Callable[[], object]) -> int:
    """Bytes of the current CUDA device that a call takes at most beside what is there already; its result counts."""
    call()  # what is kept from one call to the next is there already
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    threads, peak, arguments = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    print(peak(*arguments))
