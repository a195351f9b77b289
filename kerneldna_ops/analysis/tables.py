"""CKA as figures in files, for spreadsheets and programs; each appears whole or not at all."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import replacing
from .similarity import CKA


def write_csv(path: Path, similarity: CKA) -> None:
    """A line for each layer of `names`, a column for each of `columns`; all digits; nan where CKA does not exist."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", *similarity.columns])
        for name, values in zip(similarity.names, similarity.matrix.tolist(), strict=True):
            writer.writerow([name, *values])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def to_plain(similarity: CKA) -> dict[str, Any]:
    """For write_json: its fields, the matrix as lists, null where CKA does not exist."""
    matrix = [[None if math.isnan(value) else value for value in row] for row in similarity.matrix.tolist()]
    return {
        "names": list(similarity.names),
        "columns": list(similarity.columns),
        "matrix": matrix,
        "batches": similarity.batches,
        "samples": similarity.samples,
    }
