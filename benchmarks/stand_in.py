"""Stands in for torch.cuda on a machine without a GPU, so that the benchmarks' code for GPUs can be tried: kernels run
when they are called, and events tell the wall clock. Figures made so mean nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch

L2 = 1 << 12
BUSY_MILLISECONDS = 0.1


class Event:
    def __init__(self, enable_timing: bool) -> None:
        self.seconds = 0.0

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        return (end.seconds - self.seconds) * 1e3


class CUDAGraph:
    def replay(self) -> None:
        time.sleep(BUSY_MILLISECONDS / 1e3)


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        pass


@contextmanager
def nothing(_: object) -> Iterator[None]:
    yield


def install() -> None:
    """For the rest of the process."""
    from kerneldna_ops.backends import _selection

    stand_ins = {
        "Event": Event,
        "CUDAGraph": CUDAGraph,
        "Stream": Stream,
        "stream": nothing,
        "graph": nothing,
        "current_stream": Stream,
        "synchronize": lambda: None,
        "_sleep": lambda clocks: None,
        "get_device_properties": lambda number: SimpleNamespace(name="stand-in", L2_cache_size=L2),
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 0,
        "max_memory_allocated": lambda: 0,
    }
    for name, value in stand_ins.items():
        setattr(torch.cuda, name, value)
    _selection.hold()  # calls are selected in Python, as those on a GPU are, where the autotuner sees them
