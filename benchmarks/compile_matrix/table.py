"""The table on disk: a row a kernel and a file for each version of Triton."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FOLDER = Path(__file__).parent.parent / "results" / "compile"


def tables() -> dict[str, list[Row]]:
    """Those that are committed, by the version of Triton."""
    return dict(parse(path.read_text()) for path in sorted(FOLDER.glob("[0-9]*.json")))


def parse(text: str) -> tuple[str, list[Row]]:
    table = json.loads(text)
    return table["triton"], table["kernels"]


def dump(version: str, rows: list[Row]) -> str:
    """JSON with a line for each kernel."""
    head = json.dumps({"triton": version, "command": "make gpu-compile"})
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{head[:-1]}, "kernels": [\n{lines}\n]}}\n'
