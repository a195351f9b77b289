"""What every CUDA kernel must keep, on every architecture."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]

# Kernels that multiply on the tensor cores in every 16-bit type, and in float32 where TF32 is allowed.
TENSOR_KERNELS = ("conv_gemm_kernel", "conv_weight_gradient_kernel")
_TENSOR_TYPES = re.compile(r"\b(__half|__nv_bfloat16|\w*Tf32\w*)\b")


def violations(row: Row) -> Iterator[str]:
    """Sentences; none if the kernel keeps the rules."""
    name = f"{row['kernel']} on sm_{row['arch']}"
    if row["stack"] or row["spills"]:
        yield f"{name}: {row['spills']} loads and stores of thread-local memory, {row['stack']} bytes; 0 allowed."
    if row["threads"] == 0:
        yield f"{name}: no __launch_bounds__, so that nothing says how many registers it may have."
    elif row["blocks"] < max(row["planned_blocks"], 1):
        yield (
            f"{name}: registers for {row['blocks']} blocks of {row['threads']} threads; planned are"
            f" {max(row['planned_blocks'], 1)}."
        )
    if wants_tensor_cores(row["kernel"], row["arch"]) and (row["mma"] == 0 or row["loop_products"] == 0):
        yield f"{name}: no tensor-core instruction in a loop."
    if row["loop_waits"]:
        yield f"{name}: {row['loop_waits']} times in the loop all wgmma are waited for; 0 allowed."


def wants_tensor_cores(kernel: str, arch: str) -> bool:
    # wgmma is sm_90a's; elsewhere such a kernel is empty.
    if "Wgmma" in kernel and arch != "90a":
        return False
    return kernel.startswith(TENSOR_KERNELS) and bool(_TENSOR_TYPES.search(kernel))


def missing(rows: Iterable[Row]) -> Iterator[str]:
    """Sentences for kernels that one architecture has and another has not, and where no kernel of a family loads ahead:
    that takes vectors, so one for unaligned operands may do without."""
    rows = list(rows)
    archs = sorted({row["arch"] for row in rows})
    for kernel in sorted({row["kernel"] for row in rows}):
        have = [row["arch"] for row in rows if row["kernel"] == kernel]
        if sorted(have) != archs:
            yield f"{kernel} is there for {', '.join(have)}; expected once for each of {', '.join(archs)}."
    for family in TENSOR_KERNELS:
        for arch in archs:
            if not any(row["cp_async"] for row in rows if row["arch"] == arch and row["kernel"].startswith(family)):
                yield f"{family} on sm_{arch}: no cp.async in any of them."
