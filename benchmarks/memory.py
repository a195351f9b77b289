"""Peak memory of one call on the CPU: a process for each, the resident peak above what was resident before the call.

    python -m benchmarks.memory --shapes 512@7 --batches 8,32 --candidates static,op,grouped

Inputs exist before; the output, every temporary, and scratch that a library keeps between calls count. On a GPU
latency.py finds it in passing."""

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import torch

from kerneldna_ops._peak_memory import highest_during, resident

from .candidates import CANDIDATES, STATIC
from .cases import LAYOUTS, MODES, Case, Shape, make_operands
from .measure import prepare
from .options import add_cases, cases, names
from .process import RETURN_MEMORY, description, environment

MEBI = 2**20


def tiny(layout: str, mode: str) -> Case:
    return Case(Shape.parse("16@5"), 1, layout, mode)


def warm_up_torch() -> None:
    """Convolution library, autograd engine and threads start before the baseline is taken, for all candidates alike."""
    for layout, mode in product(LAYOUTS, MODES):
        case = tiny(layout, mode)
        prepare(CANDIDATES[STATIC], make_operands(case), case.mode)()
    torch.randn(64, 64) @ torch.randn(64, 64)


def peak(case: Case, name: str) -> int:
    """Bytes. A tiny call first starts what the candidate starts once; memory that it leaves behind is scratch and
    counts. Pages of program files that the call brings in are code and do not."""
    candidate = CANDIDATES[name]
    warm_up_torch()
    before = resident("RssAnon")
    prepare(candidate, make_operands(tiny(case.layout, case.mode), candidate.static_modulation), case.mode)()
    scratch = max(0, resident("RssAnon") - before)
    call = prepare(candidate, make_operands(case, candidate.static_modulation), case.mode)
    return scratch + highest_during(call)


def peak_in_its_own_process(case: Case, name: str, threads: int) -> int:
    child = [sys.executable, "-m", "benchmarks.memory", "--threads", str(threads), "--one", name]
    child += [case.shape.name, str(case.batch), case.layout, case.mode]
    answer = subprocess.run(child, env=environment(RETURN_MEMORY), capture_output=True, text=True)
    if answer.returncode != 0:
        raise SystemExit(f"{name}, {case.name}: {answer.stderr.strip()}")
    return int(answer.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cases(parser, modes=MODES, candidates=["op", "op_static", "composite", "grouped", "loop"])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument(
        "--one", nargs=5, metavar=("CANDIDATE", "SHAPE", "BATCH", "LAYOUT", "MODE"), help="this process"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        name, shape, batch, layout, mode = options.one
        print(peak(Case(Shape.parse(shape), int(batch), layout, mode), name))
        return

    candidates = names(options)
    print(f"{'peak memory, MiB':44}" + "".join(f"{name:>12}" for name in candidates), flush=True)
    rows = []
    for case in cases(options):
        peaks = {name: peak_in_its_own_process(case, name, options.threads) for name in candidates}
        where = {"shape": case.shape.name, "batch": case.batch, "layout": case.layout, "mode": case.mode}
        rows += [{**where, "candidate": name, "bytes": found} for name, found in peaks.items()]
        print(f"{case.name:44}" + "".join(f"{peaks[name] / MEBI:12.1f}" for name in candidates), flush=True)
    if options.json:
        machine = {name: value for name, value in description().items() if name not in ("package", "allocator")}
        options.json.write_text(json.dumps({"machine_info": machine, "peaks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
