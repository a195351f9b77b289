"""The table for people: the kernels that take the time, in bfloat16."""

from collections.abc import Iterator
from typing import Any

from .rules import KNOWN_SPILLS

Row = dict[str, Any]

_COLUMNS = {
    "registers": "registers",
    "spills": "spills",
    "shared": "shared KB",
    "tensor": "tensor cores",
    "tma": "TMA",
    "loop": "loop",
    "issue": "issue",
    "serialised": "serialised",
}


def markdown(version: str, rows: list[Row]) -> str:
    return "\n".join(_lines(version, rows)) + "\n"


def _lines(version: str, rows: list[Row]) -> Iterator[str]:
    yield f"# Compiled kernels, Triton {version}"
    yield ""
    yield (
        "Read off machine code that `make gpu-compile` compiles; no GPU ran it. The JSON file beside this one has all"
        " kernels; here are those that multiply on tensor cores, in bfloat16."
    )
    yield ""
    yield "* loop: instructions of the innermost loop with tensor-core instructions, for each warp"
    yield "* issue: instructions the loop starts, per instruction that could start while its tensor-core work runs"
    yield "* serialised: the loop waits for each wgmma before it starts the next (sm_90)"
    yield "* flags: g channel and s spatial attention per sample, f filter attention, b bias,"
    yield "  d sums for the attention gradients; config: pixels x filters x reduction, warps, stages"
    yield ""
    yield "| kernel | " + " | ".join(_COLUMNS.values()) + " |"
    yield "| --- |" + " ---: |" * len(_COLUMNS)
    for row in rows:
        if row["dots"] == "bf16":
            yield f"| {row['kernel']} | " + " | ".join(_cell(name, row[name]) for name in _COLUMNS) + " |"
    yield ""
    spilling = [row for row in rows if row["spills"]]
    known = KNOWN_SPILLS.get(version, {})
    yield f"{len(spilling)} of all {len(rows)} kernels spill registers{':' if spilling else '.'}"
    yield ""
    for row in spilling:
        why = known.get(row["kernel"], "not allowed")
        yield f"* {row['kernel']}: {row['spills']} loads and stores; {why}"


def _cell(name: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if name == "shared":
        return f"{value / 1024:.0f}"
    return f"{value:.0%}" if name == "issue" else str(value)
