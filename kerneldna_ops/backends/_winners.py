"""The table of measured winners: the fastest backend for each class of calls, on the devices that were measured.

One file for each device, winners/<device>.json, written by `python -m benchmarks.winners`. A class is what the C++
library knows of a call without asking anybody (csrc/selection.h).
"""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

import torch

from ..call import AnyCall, Call
from ..library import build_info
from . import _tuned

_conv_class = torch.ops.kerneldna._conv_class.default

# The digits of a class's number, the lowest first, by name. csrc/selection.h finds the number of a call, and adds
# CLASSES on CUDA.
AXES: dict[str, tuple[str, ...]] = {
    "dtype": ("float64", "float32", "float16", "bfloat16"),
    "kind": ("dense", "pointwise", "depthwise", "grouped"),
    "spatial": ("static", "per_sample"),
    "layout": ("nchw", "channels_last"),
    "map": ("small", "large"),
}
CLASSES = prod(map(len, AXES.values()))

NATIVE = "cpu"  # what the C++ library runs on the CPU without asking Python


@dataclass(frozen=True)
class Winner:
    """The backend that wins a class, and why it does."""

    backend: str
    reason: str


def classes() -> Iterator[dict[str, str]]:
    """Every class, as its values on the AXES."""
    return (dict(zip(AXES, values, strict=True)) for values in product(*AXES.values()))


def class_number(of: Mapping[str, str]) -> int:
    """The number of the class that has these values on the AXES."""
    total, place = 0, 1
    for axis, values in AXES.items():
        total += place * values.index(of[axis])
        place *= len(values)
    return total


def class_of(call: Call) -> int:
    """The number of the class of a call of conv."""
    input = call.input
    per_sample = call.kind("spatial_attention") == "per_sample"
    channels_last = call.memory_format is torch.channels_last
    number: int = _conv_class(input.shape, call.kernel_shape, *call.geometry, input.dtype, per_sample, channels_last)
    return number


def file_of_the_cpu() -> Path:
    """Processors with the same vector code share a table."""
    return Path(__file__).parent / "winners" / f"cpu_{build_info()['cpu_vector']}.json"


def read(file: Path) -> dict[int, Winner]:
    """The classes that another backend than the native one wins; a class that nobody measured is native."""
    rows = [row for measurement in json.loads(file.read_text())["measurements"] for row in measurement["rows"]]
    return {
        class_number(row): Winner(row["winner"], f"measured faster (ratio {row['ratio']:.2f})")
        for row in rows
        if row["winner"] != NATIVE
    }


def unmeasured() -> dict[int, Winner]:
    """On a device that nobody measured: composite, except where it has no cheap form."""
    composite = Winner("composite", "nobody measured this device")
    return {class_number(of): composite for of in classes() if of["spatial"] == "static"}


@functools.cache
def table(device_type: str) -> dict[int, Winner]:
    file = file_of_the_cpu()
    return read(file) if device_type == "cpu" and file.exists() else unmeasured()


def winner_of(call: AnyCall) -> Winner | None:
    """Who wins the class of this call, where the table names another backend than the first of AUTOMATIC."""
    forward = call.forward
    if forward.kernels != "shared":  # the table is of calls with one weight
        return None
    if forward.input.device.type == "cuda":
        entry = _tuned.find(call)
        if entry is not None:
            return Winner(entry.backend, "measured fastest on this device")
    return table(forward.input.device.type).get(class_of(forward))
