"""What was measured on GPUs: for each shape class the fastest way to run it, shipped or found by the autotuner.

One file for each device, shipped as triton_kernels/configs/tuned/<device>.json; what the autotuner finds goes to the
user's cache, one file for each device, driver and versions of Triton and CUDA, and counts for more than what is
shipped.

    {"device": .., "driver": .., "triton": .., "cuda": .., "torch": ..,
     "shapes": {"conv": {shape class: Entry}, "conv_backward": {shape class: Entry}}}
"""

import functools
import json
import logging
import os
import re
import tempfile
import threading
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..call import ATTENTIONS, AnyCall, Call
from ..library import build_info
from ..triton_kernels import operands
from ..triton_kernels.problem import Problem
from . import _plans

_log = logging.getLogger("kerneldna_ops")

FUNCTIONS = ("conv", "conv_backward")
_SHIPPED = Path(operands.__file__).parent / "configs" / "tuned"


@dataclass(frozen=True)
class Entry:
    """backend: the fastest, "composite", "triton" or "cuda". options: of the fastest way that Triton's kernels ran, if
    any did. milliseconds: of each candidate that ran, by name."""

    backend: str
    options: dict[str, Any]
    milliseconds: dict[str, float]


def key_of(call: Call) -> str:
    """The shape class of a call of conv."""
    layout = "channels_last" if call.memory_format is torch.channels_last else "nchw"
    attentions = ", ".join(f"{field[0]} {call.kind(field).replace('_', ' ')}" for field in ATTENTIONS)
    precision = f" {operands.input_precision()}" if call.input.dtype is torch.float32 else ""
    return f"{Problem.of(call).key}{precision} {layout}; {attentions}"


def gate_key_of(input: Tensor, fc1_weight: Tensor) -> str:
    """The shape class of squeeze-and-excitation."""
    return f"{str(input.dtype).removeprefix('torch.')} {list(input.shape)} -> {len(fc1_weight)}"


def cache_folder() -> Path:
    """KERNELDNA_CACHE, or kerneldna_ops in the user's folder for caches."""
    chosen = os.environ.get("KERNELDNA_CACHE")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else caches / "kerneldna_ops"


class Table:
    """The entries of one device."""

    def __init__(self, device: str, driver: str, triton: str) -> None:
        versions = {"driver": driver, "triton": triton, "cuda": build_info().get("cuda", "none")}
        self.about = {"device": device, **versions, "torch": torch.__version__}
        name = re.sub(r"[^A-Za-z0-9.]+", "_", " ".join([device, *chain.from_iterable(versions.items())]))
        self.file = cache_folder() / f"{name}.json"
        self._lock = threading.Lock()
        shipped = _SHIPPED / f"{re.sub(r'[^A-Za-z0-9.]+', '_', device)}.json"
        self._entries = {function: _read(shipped, function) | _read(self.file, function) for function in FUNCTIONS}

    def find(self, function: str, key: str) -> Entry | None:
        return self._entries[function].get(key)

    def add(self, function: str, key: str, entry: Entry) -> None:
        """Keeps the entry, and writes it beside those that other processes have written meanwhile."""
        with self._lock:
            self._entries[function][key] = entry
            _plans.forget()
            shapes = {name: _read(self.file, name) for name in FUNCTIONS}
            shapes[function][key] = entry
            rows = {name: {k: asdict(e) for k, e in sorted(found.items())} for name, found in shapes.items()}
            _write(self.file, json.dumps({**self.about, "shapes": rows}, indent=1))


def _read(file: Path, function: str) -> dict[str, Entry]:
    if not file.exists():
        return {}
    try:
        return {key: Entry(**entry) for key, entry in json.loads(file.read_text())["shapes"][function].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        _log.warning("%s is no table of tuned shapes and is not used; the autotuner will write it anew", file)
        return {}


def _write(file: Path, text: str) -> None:
    """Whole or not at all: another process may be reading it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
        new.write(text)
    os.replace(new.name, file)


def find(call: AnyCall) -> Entry | None:
    """What is known of the shape class of a call."""
    return table(call.forward.input.device).find(call.function, key_of(call.forward))


@functools.cache
def table(device: torch.device) -> Table:
    """Of a CUDA device, or of the CPU, where Triton's kernels run interpreted."""
    try:
        from triton import __version__ as version
    except ImportError:
        version = "none"
    if device.type == "cpu":
        return Table("interpreter", "none", version)
    driver = str(torch._C._cuda_getDriverVersion())  # type: ignore[attr-defined]
    return Table(torch.cuda.get_device_name(device), driver, version)
