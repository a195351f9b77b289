"""The tables on disk: a row a kernel, a file for each version of Triton."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FOLDER = Path(__file__).parent.parent / "results" / "compile"
_ABOUT = (
    "Read off machine code that no GPU ran. Kernel: form, size, dtype, flags, tile, architecture. Flags: g channel, s"
    " spatial attention per sample, f filter attention, b bias, d sums for the attention gradients. Tile: pixels x"
    " filters x reduction, warps, stages. loop: instructions of the innermost loop with tensor-core instructions, for"
    " each warp. serialised: it waits for each wgmma before it starts the next."
)


def tables() -> dict[str, list[Row]]:
    """Those that are committed, by the version of Triton."""
    return dict(parse(path.read_text()) for path in sorted(FOLDER.glob("[0-9]*.json")))


def parse(text: str) -> tuple[str, list[Row]]:
    table = json.loads(text)
    return table["triton"], table["kernels"]


def dump(version: str, rows: list[Row]) -> str:
    """JSON with a line for each kernel."""
    head = json.dumps({"triton": version, "command": "make gpu-compile", "about": _ABOUT})
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{head[:-1]}, "kernels": [\n{lines}\n]}}\n'
