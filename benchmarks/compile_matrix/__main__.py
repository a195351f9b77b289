"""Brings the tables in benchmarks/results/compile/ up to date for the version of Triton that is installed.

What has not changed since is not compiled again. A sample, of which nothing is saved, always is.

python -m benchmarks.compile_matrix
python -m benchmarks.compile_matrix --sample 20
"""

import argparse
import sys
import time

import triton

from .jobs import NotCompiled, compile_all, jobs, sample
from .markdown import markdown
from .matrix import cells
from .rules import violations
from .table import FOLDER, dump, tables


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_matrix")
    parser.add_argument("--sample", type=int, metavar="N", help="compile N kernels, always the same; saves nothing")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args()

    whole = options.sample is None
    start = time.perf_counter()
    chosen = jobs(cells()) if whole else sample(jobs(cells()), options.sample)
    try:
        rows = compile_all(chosen, options.processes, tables().get(triton.__version__, []) if whole else [])
    except NotCompiled as error:
        print(error, file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start

    table = dump(triton.__version__, rows)
    if whole:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{triton.__version__}.json").write_text(table)
        (FOLDER / f"{triton.__version__}.md").write_text(markdown(triton.__version__, rows))
    else:
        print(table, end="")
    broken = [sentence for row in rows for sentence in violations(row, triton.__version__)]
    print(f"{len(rows)} kernels in {seconds:.0f} s, {len(broken)} broken rules", *broken, sep="\n", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
