"""The project's targets (the ratios to reach in bfloat16, channels_last, batch 128) beside what was measured."""

from collections.abc import Callable
from typing import Any

from benchmarks.paired import geometric_mean

from .winners import is_way

Row = dict[str, Any]
Ratios = dict[str, float]  # by shape

UNKNOWN = "not measured"


def judge(rows: list[Row]) -> list[dict[str, Any]]:
    """One entry a target: its text, the figures, and "met", "missed" or "not measured"."""
    return [
        *_forward(rows, "op cfs", "forward with c, f, s per sample"),
        *_forward(rows, "best", "the same, the fastest configuration of each shape"),
        _entry(
            "1x1 forward with c, f, s per sample at most 1.05x static",
            _ratios(rows, "forward 1x1", "op cfs", "static"),
            lambda found: max(found.values()) <= 1.05,
        ),
        _entry(
            "forward and backward, all gradients, at most 1.15x static",
            _ratios(rows, "training 3x3", "op cfs", "static"),
            lambda found: max(found.values()) <= 1.15,
        ),
        _entry(
            "at least 3x faster than per-sample grouped convolution, 10x at 512@7",
            _ratios(rows, "forward 3x3", "grouped cfs", "op cfs"),
            lambda found: min(found.values()) >= 3 and found.get("512@7", 0) >= 10,
        ),
        _launches(rows),
        *_child_layer(rows),
    ]


def _forward(rows: list[Row], candidate: str, what: str) -> list[dict[str, Any]]:
    found = _ratios(rows, "forward 3x3", candidate, "static")
    return [
        _entry(f"{what}: at most 1.00x static as geometric mean", found, lambda f: _mean(f) <= 1.00, _mean),
        _entry(f"{what}: none above 1.10x static", found, lambda f: max(f.values()) <= 1.10),
    ]


def _mean(found: Ratios) -> float:
    return geometric_mean(list(found.values()))


def _entry(
    target: str, found: Ratios, met: Callable[[Ratios], bool], summary: Callable[[Ratios], float] | None = None
) -> dict[str, Any]:
    if not found:
        return {"target": target, "measured": {}, "state": UNKNOWN}
    measured = {shape: round(ratio, 3) for shape, ratio in found.items()}
    if summary is not None:
        measured["mean"] = round(summary(found), 3)
    return {"target": target, "measured": measured, "state": "met" if met(found) else "missed"}


def _launches(rows: list[Row]) -> dict[str, Any]:
    found = {
        row["shape"]: row["launches"]
        for row in rows
        if row["section"] == "squeeze-excite" and row["mode"] == "inference" and "launches" in row
    }
    return _entry("squeeze-excite in inference in at most 2 launches", found, lambda f: max(f.values()) <= 2)


def _child_layer(rows: list[Row]) -> list[dict[str, Any]]:
    """Against the faster of its rivals: once as the op chooses, once the fastest of what is the project's."""
    found: dict[str, dict[str, dict[str, float]]] = {"forward": {}, "on the CPU": {}}
    for row in rows:
        if row["section"] == "child layer" and "us" in row:
            cell = found[row["mode"]].setdefault(f"{row['shape']} b{row['batch']}", {})
            kinds = ["static"] if row["candidate"].startswith("static") else ["best", row["candidate"]]
            for kind in kinds:
                cell[kind] = min(cell.get(kind, row["us"]), row["us"])
    entries = []
    for kind, what in (("op", "child layer in inference"), ("best", "the same, the fastest of ours")):
        ratios = {name: us[kind] / us["static"] for name, us in found["forward"].items() if {kind, "static"} <= set(us)}
        calls = {name: us[kind] for name, us in found["on the CPU"].items() if kind in us}
        text = f"{what}: at most 1.00x static convolution and eager squeeze-excite"
        entries.append(_entry(text, ratios, lambda f: max(f.values()) <= 1.00))
        entries.append(_entry(f"{what}: its calls take the CPU under 10 us", calls, lambda f: max(f.values()) < 10))
    return entries


def _ratios(rows: list[Row], section: str, candidate: str, base: str) -> Ratios:
    cells: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["section"] == section and "us" in row:
            cells.setdefault(row["shape"], {})[row["candidate"]] = row["us"]
            if row["attentions"] == "cfs" and is_way(row):
                best = cells[row["shape"]].get("best", row["us"])
                cells[row["shape"]]["best"] = min(best, row["us"])
    return {s: times[candidate] / times[base] for s, times in cells.items() if candidate in times and base in times}
