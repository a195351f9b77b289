"""What is saved of a candidate of a case: written by bench_latency.py and latency.py, read by report.py."""

from dataclasses import asdict
from typing import Any

from kerneldna_ops.measure.time import Spread

from .candidates import STATIC
from .cases import Case, Shape
from .devices import CPU
from .measure import Measured

Entry = dict[str, Any]

BASES = (STATIC, "composite")


def entry(case: Case, name: str, measured: Measured) -> Entry:
    rounds = measured.rounds
    found = {
        "shape": case.shape.name,
        "batch": case.batch,
        "layout": case.layout,
        "mode": case.mode,
        "dtype": case.dtype,
        "device": case.device,
        "candidate": name,
        "undisturbed": rounds.undisturbed,
        "rounds": len(rounds.seconds[name]),
        "seconds": asdict(rounds.time(name)),
    }
    found |= {f"to_{base}": asdict(rounds.ratio(name, base)) for base in BASES if base in rounds.seconds}
    if measured.host is not None:
        found["host_seconds"] = asdict(measured.host.time(name))
        found["peak_bytes"] = measured.peaks[name]
    return found


def spread(saved: Entry) -> Spread:
    return Spread(saved["low"], saved["median"], saved["high"])


def case_of(found: Entry) -> Case:
    """Files of before there were GPUs say neither dtype nor device."""
    shape, dtype, device = Shape.parse(found["shape"]), found.get("dtype", "float32"), found.get("device", CPU)
    return Case(shape, found["batch"], found["layout"], found["mode"], dtype, device)


def replaced(entries: list[Entry], new: list[Entry]) -> list[Entry]:
    """The entries with the new ones, all of one case, in place of what was known of their candidates."""
    known = {(case_of(found), found["candidate"]) for found in new}
    return [found for found in entries if (case_of(found), found["candidate"]) not in known] + new
