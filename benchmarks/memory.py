"""Peak memory of one call on the CPU: a process for each, the resident peak above what was resident before the call.

    python -m benchmarks.memory --shapes 512@7 --batches 8,32 --candidates static,op,grouped

Inputs exist before; the output, every temporary, and scratch that a library keeps between calls count. Pages of program
files that the call brings in are code and do not. On a GPU latency.py finds it in passing."""

import argparse
import json
from pathlib import Path

import torch

from kerneldna_ops.measure.memory import in_a_process

from .cases import MODES
from .measure import peak
from .options import add_cases, cases, names
from .process import description

MEBI = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cases(parser, modes=MODES, candidates=["op", "op_static", "composite", "grouped", "loop"])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    candidates = names(options)
    print(f"{'peak memory, MiB':44}" + "".join(f"{name:>12}" for name in candidates), flush=True)
    rows = []
    for case in cases(options):
        peaks = {name: in_a_process(peak, case, name) for name in candidates}
        where = {"shape": case.shape.name, "batch": case.batch, "layout": case.layout, "mode": case.mode}
        rows += [{**where, "candidate": name, "bytes": found} for name, found in peaks.items()]
        print(f"{case.name:44}" + "".join(f"{peaks[name] / MEBI:12.1f}" for name in candidates), flush=True)
    if options.json:
        machine = {name: value for name, value in description().items() if name not in ("package", "allocator")}
        options.json.write_text(json.dumps({"machine_info": machine, "peaks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
