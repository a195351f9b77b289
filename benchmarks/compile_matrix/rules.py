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
# The forms whose loops never wait for each product before the next.
OVERLAPPED = ("P", "S", "M", "X")
# Kernels that may spill, for each version of Triton, and why.
KNOWN_SPILLS = {
    "3.6.0": {
        "squeeze-excite 256@14 3x3 tf32 b sm_90: gate_kernel (2)": (
            "5 registers, each loaded once in the outer loop, of 2 steps here, and never in the inner one; none with"
            " Triton 3.9"
        ),
    },
}
# By how much a loop may grow before the table has to be rebuilt, and looked at, and between two versions of Triton.
LOOP_MARGIN = 1.05
LOOP_MARGIN_OTHER_VERSION = 1.25


def violations(row: Row, version: str = "") -> Iterator[str]:
    """Sentences; none if the kernel keeps the rules. float32 without TF32 ("f32") has no tensor cores to use.

    version: of Triton, whose known spills are allowed.
    """
    name = row["kernel"]
    if (row["spills"] or row["stack"]) and name not in KNOWN_SPILLS.get(version, {}):
        yield f"{name}: {row['spills']} instructions spill registers, {row['stack']} bytes of stack; 0 allowed."
    limit = SHARED_LIMIT[row["arch"]] * 1024
    if row["shared"] > limit:
        yield f"{name}: {row['shared']} bytes of shared memory; sm_{row['arch']} has {limit}."
    kind = "mma.sync" if any(kernel in name for kernel in FEW_ROWS) else TENSOR_KIND[row["arch"]]
    if row["dots"] not in ("", "f32") and row["tensor"] != kind:
        yield f"{name}: tensor-core instructions are {row['tensor'] or 'missing'}; expected {kind}."
    if row["serialised"] and name.split()[0] in OVERLAPPED:
        yield f"{name}: the loop waits for each product before it starts the next."


def over_budget(row: Row, committed: Row, margin: float) -> str | None:
    """A sentence if the loop has more instructions than the committed row allows."""
    budget = math.ceil(committed["loop"] * margin)
    if row["loop"] <= budget:
        return None
    return (
        f"{row['kernel']}: {row['loop']} instructions in the loop; {budget} allowed ({committed['loop']} * {margin})."
    )
