"""Checks, then times, then prints its tables; exits 1 where a result was wrong. See __init__.py.

python -m benchmarks.gpu_check
python -m benchmarks.gpu_check --dry-run    # no GPU: Triton's interpreter, tiny shapes, the wall clock
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from . import checkout

# The share of all time that the kernels may take to compile ahead.
COMPILE_SHARE = 0.3
# Left at the end for the tables, and for what else looks at kernels, where it is there.
LAST_SECONDS = 10.0
TOOL_SECONDS = {"ncu": 40.0, "compute-sanitizer": 75.0}


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all together; default: %(default)s")
    parser.add_argument("--out", type=Path, default=checkout.ROOT / "benchmarks" / "results" / "gpu", metavar="FOLDER")
    parser.add_argument("--commit", help="what is checked, where the tree is no git checkout")
    parser.add_argument("--dry-run", action="store_true", help="try this script on the CPU")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    started = time.monotonic()
    options = options_of(arguments)
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    checkout.build()
    checkout.ready()

    from . import winners
    from .machine import Machine
    from .record import Record
    from .sections import check, finish, measure_all, prepare

    machine = Machine.found(options.dry_run)
    record = Record(options.out / f"{winners.file_name(machine.name)}.json", 60 * options.minutes, started)
    prepare(machine, record, options.commit, COMPILE_SHARE * 60 * options.minutes)
    if not check(machine, record):
        return 1
    measure_all(machine, record, LAST_SECONDS + sum(s for tool, s in TOOL_SECONDS.items() if shutil.which(tool)))
    finish(machine, record)
    return 1 if record.data["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
