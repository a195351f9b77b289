"""What every kernel must keep, whichever Triton compiled it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]

# Shared memory that one program may have, in KB: CUDA programming guide, table of technical specifications.
SHARED_LIMIT = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
# The tensor-core instructions of each architecture that reach its full rate.
TENSOR_KIND = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 90: "wgmma", 100: "tcgen05", 120: "mma.sync"}
# Of 16 samples at a time: too few for wgmma and tcgen05, which take at least 64 rows.
FEW_ROWS = ("gate_kernel",)
# By how much a loop may grow before the table has to be rebuilt, and looked at, and between two versions of Triton.
LOOP_MARGIN = 1.05
LOOP_MARGIN_OTHER_VERSION = 1.25


def violations(row: Row) -> Iterator[str]:
    """Sentences; none if the kernel keeps the rules. float32 without TF32 ("f32") has no tensor cores to use."""
    name = row["kernel"]
    if row["spills"] or row["stack"]:
        yield f"{name}: {row['spills']} instructions spill registers, {row['stack']} bytes of stack; 0 allowed."
    limit = SHARED_LIMIT[row["arch"]] * 1024
    if row["shared"] > limit:
        yield f"{name}: {row['shared']} bytes of shared memory; sm_{row['arch']} has {limit}."
    kind = "mma.sync" if any(kernel in name for kernel in FEW_ROWS) else TENSOR_KIND[row["arch"]]
    if row["dots"] not in ("", "f32") and row["tensor"] != kind:
        yield f"{name}: tensor-core instructions are {row['tensor'] or 'missing'}; expected {kind}."


def over_budget(row: Row, committed: Row, margin: float) -> str | None:
    """A sentence if the loop has more instructions than the committed row allows."""
    budget = math.ceil(committed["loop"] * margin)
    if row["loop"] <= budget:
        return None
    return (
        f"{row['kernel']}: {row['loop']} instructions in the loop; {budget} allowed ({committed['loop']} * {margin})."
    )
