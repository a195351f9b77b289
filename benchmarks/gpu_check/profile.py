"""What the hardware counters say of forms P and S at 256@14, by Nsight Compute where it is on the PATH.

python -m benchmarks.gpu_check.profile   # one call of each, for a profiler to look at
"""

import csv
import io
import shutil
import subprocess
import sys
from typing import Any

from . import checkout

SECONDS = 60
METRICS = (
    "gpu__time_duration.sum",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_gmma_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
    "launch__registers_per_thread",
)


def counters(seconds: float) -> dict[str, Any]:
    """Kernel -> metric -> value; or under "not_done" why there is none."""
    if shutil.which("ncu") is None:
        return {"not_done": "ncu is not on the PATH"}
    command = ["ncu", "--clock-control", "none", "--csv", "--metrics", ",".join(METRICS), "-k", "regex:^conv_"]
    command += [sys.executable, "-m", "benchmarks.gpu_check.profile"]
    try:
        ran = subprocess.run(
            command, cwd=checkout.ROOT, capture_output=True, text=True, timeout=max(1, min(seconds, SECONDS))
        )
    except subprocess.TimeoutExpired:
        return {"not_done": "ncu was too slow"}
    found = parsed(ran.stdout)
    return found or {"not_done": (ran.stdout + ran.stderr).strip()[-300:] or "ncu said nothing"}


def parsed(output: str) -> dict[str, Any]:
    """ncu's table, which begins behind its messages."""
    table = output[output.find('"ID"') :] if '"ID"' in output else ""
    found: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(table)):
        kernel = f"{row['Kernel Name']} {row['ID']}"
        found.setdefault(kernel, {})[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return found


def main() -> None:
    checkout.ready()
    import torch

    from benchmarks.cases import Shape

    from . import ways
    from .cells import MAIN_BATCH, Cell, args_of, operands
    from .machine import Machine

    machine = Machine.found(dry=False)
    args = args_of(operands(Cell("profile", "forward", Shape.parse("256@14"), MAIN_BATCH, "bf16"), machine.device))
    forms = {way.form: way for way in reversed(ways.forward(machine, args))}
    for form in ("P", "S"):
        if form in forms:
            forms[form](*args)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
