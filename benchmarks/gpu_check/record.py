"""What a run found: one JSON file, written again after each piece, so that a run cut short leaves what it had."""

import json
import math
import time
from pathlib import Path
from typing import Any


class Record:
    """data: by section. The clock runs from `started`, seconds of time.monotonic()."""

    def __init__(self, file: Path, seconds: float, started: float) -> None:
        self.file = file
        self.started = started
        self.end = started + seconds
        self.data: dict[str, Any] = {"complete": False, "sections": {}, "rows": [], "not_run": [], "wrong": []}
        file.parent.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.end - time.monotonic()

    def put(self, name: str, value: Any) -> None:
        self.data[name] = value
        self.write()

    def done(self, section: str, started: float) -> None:
        self.data["sections"][section] = round(time.monotonic() - started, 1)
        self.write()

    def rows(self, rows: list[dict[str, Any]]) -> None:
        """One row for each candidate of a cell."""
        self.data["rows"] += rows
        self.write()

    def not_run(self, what: str, why: str) -> None:
        self.data["not_run"].append({"what": what, "why": why})

    def wrong(self, what: str) -> None:
        """A result that is not right, for which the run as a whole fails."""
        self.data["wrong"].append(what)
        self.write()

    def write(self) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(_finite(self.data), indent=1) + "\n")
        part.replace(self.file)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
