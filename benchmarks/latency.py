"""Paired latency: every candidate against static F.conv2d in the same process, taking turns.

    python -m benchmarks.latency --shapes 64@56 --batches 1,8 --layouts nchw --modes forward --rounds 15
    python -m benchmarks.latency --device cuda --dtype bfloat16 --layouts channels_last --batches 32,128 \\
        --candidates op,triton,cuda,composite,grouped --json latency.json

On a GPU the times are the device's, and the file also has the host's and peak memory; its cases are written as they are
measured, and benchmarks/report.py makes tables and plots of it. ncu, before the command, shows hardware counters.
PYTHONPATH=/another/checkout measures the package of that checkout."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .candidates import CANDIDATES, STATIC, op
from .cases import DIFFERENTIABLE, Case, Operands, make_operands, tf32_as_in
from .entries import Entry, entry, replaced
from .measure import LeftOut, Measured, checked_calls, measure
from .options import add_cases, cases, names, parsed
from .process import KEEP_MEMORY, description, restart_with
from .summary import Ratio, summarise


class Layer(nn.Module):
    """The op on operands that all get a gradient, when that of the result is 1."""

    def __init__(self, operands: Operands) -> None:
        super().__init__()
        self.operands = operands
        for name in DIFFERENTIABLE:
            self.register_parameter(name, nn.Parameter(getattr(operands.call, name).detach()))

    def forward(self) -> Tensor:
        parameters = {name: getattr(self, name) for name in DIFFERENTIABLE}
        return op(self.operands.call._replace(**parameters)) * self.operands.grad_output


def tune(case: Case, candidates: list[str]) -> None:
    """Lets the package find the fastest way of the op on this GPU, which its table then has (KERNELDNA_CACHE)."""
    import kerneldna_ops

    for static in {CANDIDATES[name].static_modulation for name in candidates if name.startswith("op")}:
        kerneldna_ops.warmup(Layer(make_operands(case, static)), backward=case.mode == "training")


class File:
    """The figures, in the form in which `make bench` leaves them; what the file holds of other cases is kept."""

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path = path
        known = json.loads(path.read_text())["benchmarks"] if path.exists() else []
        self.data: dict[str, Any] = {"machine_info": machine, "benchmarks": known}

    def add(self, entries: list[Entry]) -> None:
        self.data["benchmarks"] = replaced(self.data["benchmarks"], entries)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n")
        part.replace(self.path)


def line(case: Case, found: Measured, candidates: list[str]) -> str:
    columns = ""
    for name in candidates[1:]:
        text = f"{found.rounds.ratio(name, STATIC):.3f}" if name in found.rounds.seconds else "-"
        columns += f"{text:>25}"
    note = "" if found.rounds.undisturbed else "   DISTURBED"
    return (
        f"{case.name:44}{found.rounds.time(STATIC).median * 1e3:11.{3 if case.device == 'cpu' else 4}f}{columns}{note}"
    )


def said(case: Case, left_out: dict[str, LeftOut]) -> list[str]:
    return [f"{'WRONG' if o.wrong else 'left out'}: {name}, {case.name}: {o.why}" for name, o in left_out.items()]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_cases(parser, modes=["forward"], candidates=["op"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-check", action="store_true", help="skip the comparison with the reference")
    parser.add_argument("--tune", action="store_true", help="first let kerneldna_ops.warmup find the op's fastest way")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after so many")
    parser.add_argument("--json", type=Path, help="where to write the figures, or to add them")
    return parser


def main() -> None:
    restart_with(KEEP_MEMORY)
    started = time.monotonic()
    options = parsed(parser())
    machine = description(options.device)
    print(", ".join(f"{key}: {value}" for key, value in machine.items()))
    file = File(options.json, {k: v for k, v in machine.items() if k != "package"}) if options.json else None
    candidates = names(options)
    print(f"{'':44}{'static, ms':>11}" + "".join(f"{name:>25}" for name in candidates[1:]), flush=True)
    ratios = []
    faults: list[str] = []
    for case in cases(options):
        if time.monotonic() - started > 60 * options.minutes:
            faults.append(f"not measured, no time left: {case.name}")
            continue
        with tf32_as_in(case.dtype):
            if options.tune:
                tune(case, candidates)
            calls, left_out = checked_calls(case, candidates, not options.no_check)
            faults += said(case, left_out)
            print(*said(case, left_out), sep="\n", end="\n" * bool(left_out), flush=True)
            if STATIC not in calls:
                continue
            found = measure(case, calls, left_out, options.rounds)
        ratios += [Ratio.of(case, name, STATIC, found.rounds) for name in calls if name != STATIC]
        if {"op", "composite"} <= set(calls):
            ratios.append(Ratio.of(case, "op", "composite", found.rounds))
        print(line(case, found, candidates), flush=True)
        if file:
            file.add([entry(case, name, found) for name in calls])
    print("\nratio: geometric mean / worst cell")
    print(*summarise(ratios), *faults, sep="\n")
    sys.exit(any(fault.startswith("WRONG") for fault in faults))


if __name__ == "__main__":
    main()
