"""Paired latency: every candidate against static F.conv2d in the same process, taking turns.

    python -m benchmarks.latency --shapes 64@56 --batches 1,8 --layouts nchw --modes forward --rounds 15

PYTHONPATH=/another/checkout measures the package of that checkout."""

import argparse

import torch

from .candidates import STATIC
from .measure import measure
from .options import add_cases, cases, names
from .process import KEEP_MEMORY, description, restart_with
from .summary import Ratio, summarise


def main() -> None:
    restart_with(KEEP_MEMORY)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cases(parser, modes=["forward"], candidates=["op"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-check", action="store_true", help="skip the comparison with the reference")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(", ".join(f"{key}: {value}" for key, value in description().items()))
    candidates = names(options)
    print(f"{'':44}{'static, ms':>11}" + "".join(f"{name:>25}" for name in candidates[1:]), flush=True)
    ratios = []
    for case in cases(options):
        rounds = measure(case, candidates, options.rounds, not options.no_check)
        found = [Ratio.of(case, name, STATIC, rounds) for name in candidates[1:]]
        ratios += found
        if {"op", "composite"} <= set(candidates):
            ratios.append(Ratio.of(case, "op", "composite", rounds))
        columns = "".join(f"{r.spread.median:10.3f} [{r.spread.low:5.3f}, {r.spread.high:5.3f}]" for r in found)
        note = "" if rounds.undisturbed else "   DISTURBED"
        print(f"{case.name:44}{rounds.time(STATIC).median * 1e3:11.3f}{columns}{note}", flush=True)
    print("\nratio: geometric mean / worst cell")
    print(*summarise(ratios), sep="\n")


if __name__ == "__main__":
    main()
