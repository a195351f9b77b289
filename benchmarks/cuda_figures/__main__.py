"""python -m benchmarks.cuda_figures FOLDER: the table of the kernels in the op library that was built into FOLDER.

--print prints the rows and saves nothing."""

import argparse
import json
import sys
from pathlib import Path

from . import figures, rules, table
from .library import cuda_version, kernels


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_figures")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--print", action="store_true", help="print the rows and save nothing")
    options = parser.parse_args()
    library = options.folder / "kerneldna_ops" / "_C.abi3.so"
    rows = figures.rows(kernels(library))
    if options.print:
        print(*map(json.dumps, rows), sep="\n")
    else:
        version = cuda_version(library)
        table.JSON.write_text(table.dump(version, rows))
        table.MARKDOWN.write_text(table.markdown(version, rows))
    broken = [sentence for row in rows for sentence in rules.violations(row)] + list(rules.missing(rows))
    print(f"{len(rows)} kernels, {len(broken)} broken rules", *broken, sep="\n", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
