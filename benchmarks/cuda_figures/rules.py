"""What every CUDA kernel must keep, on every architecture."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]

# The kernels that multiply on the tensor cores, all of them, and load ahead.
TENSOR_KERNELS = "conv_gemm_kernel"


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
    if wants_tensor_cores(row["kernel"], row["arch"]):
        if row["mma"] == 0 or row["loop_products"] == 0:
            yield f"{name}: no tensor-core instruction in a loop."
        if row["cp_async"] == 0:
            yield f"{name}: no cp.async."
    if row["step_loads"]:
        yield f"{name}: a step waits for {row['step_loads']} loads from global memory; 0 allowed."
    if row["loop_waits"]:
        yield f"{name}: {row['loop_waits']} times in the loop all wgmma are waited for; 0 allowed."


def wants_tensor_cores(kernel: str, arch: str) -> bool:
    # wgmma is sm_90a's; elsewhere such a kernel is empty.
    return kernel.startswith(TENSOR_KERNELS) and ("Wgmma" not in kernel or arch == "90a")


def missing(rows: Iterable[Row]) -> Iterator[str]:
    """Sentences for kernels that one architecture has and another has not."""
    rows = list(rows)
    archs = sorted({row["arch"] for row in rows})
    for kernel in sorted({row["kernel"] for row in rows}):
        have = [row["arch"] for row in rows if row["kernel"] == kernel]
        if sorted(have) != archs:
            yield f"{kernel} is there for {', '.join(have)}; expected once for each of {', '.join(archs)}."
