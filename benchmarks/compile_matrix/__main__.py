"""Writes the table in benchmarks/results/compile/ for the version of Triton that is installed.

python -m benchmarks.compile_matrix
python -m benchmarks.compile_matrix --sample 20
"""

import argparse
import hashlib
import sys
import time

import triton

from .jobs import NotCompiled, compile_all, jobs
from .matrix import cells
from .rules import violations
from .table import FOLDER, dump


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_matrix")
    parser.add_argument("--sample", type=int, metavar="N", help="compile N kernels, always the same; saves nothing")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args()

    start, version = time.perf_counter(), triton.__version__
    chosen = jobs(cells())
    if options.sample is not None:
        chosen = sorted(chosen, key=lambda job: hashlib.sha256(job.name.encode()).digest())[: options.sample]
    try:
        rows = compile_all(chosen, options.processes)
    except NotCompiled as error:
        print(error, file=sys.stderr)
        return 1
    if options.sample is None:
        (FOLDER / f"{version}.json").write_text(dump(version, rows))
    else:
        print(dump(version, rows), end="")
    seconds = time.perf_counter() - start
    broken = [sentence for row in rows for sentence in violations(row, version)]
    print(f"{len(rows)} kernels in {seconds:.0f} s, {len(broken)} broken rules", *broken, sep="\n", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
