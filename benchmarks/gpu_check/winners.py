"""From the rows of a run a table of winners in the format of kerneldna_ops/backends/_tuned.py: a proposal."""

import re
from typing import Any

Row = dict[str, Any]


def table(environment: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """For each shape class the fastest of composite, the CUDA kernels and the ways of Triton's that the tuner can name.

    Only where composite was timed too. Where batches share a shape class, the first that was timed counts.
    """
    shapes: dict[str, dict[str, Any]] = {"conv": {}, "conv_backward": {}}
    for cell in _cells(rows):
        timed = {row["candidate"]: row for row in cell if "us" in row}
        for attentions in ("c", "cfs"):
            ways = {n: r for n, r in timed.items() if r["attentions"] == attentions and is_way(r)}
            composite = timed.get(f"composite {attentions}")
            if not ways or composite is None:
                continue
            first = next(iter(ways.values()))
            rivals = {"composite": composite, **ways}
            winner = min(rivals, key=lambda name: rivals[name]["us"])
            entry = {
                "backend": "composite" if winner == "composite" else rivals[winner]["backend"],
                "options": rivals[winner].get("options", {}),
                "milliseconds": {name: round(row["us"] / 1e3, 5) for name, row in rivals.items()},
            }
            shapes[first["function"]].setdefault(first["key"], entry)
    gpu = environment["gpu"]
    about = {"device": environment["device"], "driver": gpu.get("driver_version"), "triton": environment["triton"]}
    return {**about, "torch": environment["torch"], "shapes": shapes}


def is_way(row: Row) -> bool:
    """Whether the tuner can name it: Triton's own choice is none that it names."""
    return bool(row.get("options")) or row.get("backend") == "cuda"


def _cells(rows: list[Row]) -> list[list[Row]]:
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["mode"] in ("forward", "backward"):
            found.setdefault((row["section"], row["shape"], row["batch"], row["precision"]), []).append(row)
    return list(found.values())


def file_name(device: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", device)
