"""Paired latency: every candidate against static F.conv2d in the same process, taking turns.

    python -m benchmarks.latency --shapes 64@56 --batches 1,8 --layouts nchw --modes forward --rounds 15

PYTHONPATH=/another/checkout measures the package of that checkout."""

import argparse
from collections.abc import Callable
from itertools import product

import torch

from .candidates import CANDIDATES, STATIC
from .cases import BATCHES, LAYOUTS, MODES, PLAIN_SHAPES, SHAPES, Case, Shape
from .measure import measure
from .process import KEEP_MEMORY, description, restart_with
from .summary import Ratio, summarise


def arguments() -> argparse.Namespace:
    def listed(kind: Callable[[str], object]) -> Callable[[str], list[object]]:
        return lambda text: [kind(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", type=listed(str), default=list(PLAIN_SHAPES), help="'all', or of " + ", ".join(SHAPES)
    )
    parser.add_argument("--batches", type=listed(int), default=list(BATCHES))
    parser.add_argument("--layouts", type=listed(str), default=["nchw"], help="of " + ", ".join(LAYOUTS))
    parser.add_argument("--modes", type=listed(str), default=["forward"], help="of " + ", ".join(MODES))
    parser.add_argument("--candidates", type=listed(str), default=["op"], help="of " + ", ".join(CANDIDATES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-check", action="store_true", help="skip the comparison with the reference")
    return parser.parse_args()


def main() -> None:
    restart_with(KEEP_MEMORY)
    options = arguments()
    torch.set_num_threads(options.threads)
    print(", ".join(f"{key}: {value}" for key, value in description().items()))
    shapes = [Shape.parse(name) for name in (SHAPES if options.shapes == ["all"] else options.shapes)]
    names = [STATIC, *(name for name in options.candidates if name != STATIC)]
    print(f"{'':44}{'static, ms':>11}" + "".join(f"{name:>25}" for name in names[1:]), flush=True)
    ratios = []
    for mode, layout, shape, batch in product(options.modes, options.layouts, shapes, options.batches):
        case = Case(shape, batch, layout, mode)
        rounds = measure(case, names, options.rounds, not options.no_check)
        found = [Ratio(case, name, STATIC, rounds.ratio(name, STATIC)) for name in names[1:]]
        ratios += found
        if {"op", "composite"} <= set(names):
            ratios.append(Ratio(case, "op", "composite", rounds.ratio("op", "composite")))
        columns = "".join(f"{r.spread.median:10.3f} [{r.spread.low:5.3f}, {r.spread.high:5.3f}]" for r in found)
        note = f"   {rounds.disturbed} rounds disturbed" if rounds.disturbed else ""
        print(f"{case.name:44}{rounds.time(STATIC).median * 1e3:11.3f}{columns}{note}", flush=True)
    print("\nratio: geometric mean / worst cell")
    print(*summarise(ratios), sep="\n")


if __name__ == "__main__":
    main()
