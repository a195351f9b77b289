"""Paired latency: every candidate against static F.conv2d in the same process, taking turns.

    python -m benchmarks.latency --shapes 64@56 --batches 1,8 --layouts nchw --modes forward --rounds 15

PYTHONPATH=/another/checkout measures the package of that checkout."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from .candidates import CANDIDATES, STATIC, Candidate, reference
from .cases import BATCHES, LAYOUTS, MODES, SHAPES, TARGET_SHAPES, Case, Operands, Shape, make_operands
from .paired import Rounds, alternate, geometric_mean
from .process import KEEP_MEMORY, description, restart_with

# (layout, mode) -> geometric mean and worst cell of the op's ratio to static F.conv2d over TARGET_SHAPES and BATCHES.
TARGETS = {
    ("nchw", "forward"): (1.05, 1.12),
    ("channels_last", "forward"): (1.10, 1.20),
    ("nchw", "training"): (1.10, 1.25),
}
# The same for f and s static, and for a shape that is not among TARGET_SHAPES: the ratio to composite.
STATIC_MODULATION_TARGET = 1.03
COMPOSITE_TARGET = 1.03
# Float32, relative to the largest value of the tensor: a gate against timing a wrong answer, not a test of accuracy.
TOLERANCE = 1e-4


def prepare(candidate: Candidate, operands: Operands, mode: str) -> Callable[[], Sequence[Tensor]]:
    """The call that is timed. It returns the output, or in training the gradients of all differentiable operands."""
    if mode == "forward":

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return [candidate.call(operands)]

        return forward

    tensors = [getattr(operands, name) for name in candidate.gradients]

    def training() -> Sequence[Tensor]:
        return torch.autograd.grad(candidate.call(operands), tensors, operands.grad_output)

    return training


def check(case: Case, names: Sequence[str], operands: dict[bool, Operands]) -> None:
    """Raises AssertionError where a candidate's output or one of its gradients is not the reference's."""
    modes = MODES if case.mode == "training" else ("forward",)
    truths: dict[tuple[bool, str], Sequence[Tensor]] = {}
    for name, mode in product(names, modes):
        candidate = CANDIDATES[name]
        which = candidate.static_modulation
        if name == STATIC:
            continue
        if (which, mode) not in truths:
            truths[which, mode] = prepare(Candidate("truth", reference), operands[which], mode)()
        actual = prepare(candidate, operands[which], mode)()
        parts = ("output",) if mode == "forward" else candidate.gradients
        for part, got, wanted in zip(parts, actual, truths[which, mode], strict=True):
            error = (got - wanted).abs().max() / wanted.abs().max()
            assert error <= TOLERANCE, f"{name}, {case.name}: {part} is off by {error:.1e} of its range"


def measure(case: Case, names: Sequence[str], rounds: int, checked: bool = True) -> Rounds:
    """Checks the candidates against the reference, then times them in turn. `names` holds "static"."""
    operands = {which: make_operands(case, which) for which in {CANDIDATES[name].static_modulation for name in names}}
    if checked:
        check(case, names, operands)
    calls = {n: prepare(CANDIDATES[n], operands[CANDIDATES[n].static_modulation], case.mode) for n in names}
    return alternate(calls, rounds)


def cases(
    shapes: Sequence[str], batches: Sequence[int], layouts: Sequence[str], modes: Sequence[str]
) -> Iterator[Case]:
    for mode, layout, shape, batch in product(modes, layouts, shapes, batches):
        yield Case(Shape.parse(shape), batch, layout, mode)


def summary(ratios: dict[Case, dict[str, float]], to_composite: dict[Case, float]) -> Iterator[str]:
    """Geometric mean and worst cell of each candidate by layout and mode, beside the target where there is one."""
    for layout, mode in product(LAYOUTS, MODES):
        cells = {case: ratios[case] for case in ratios if (case.layout, case.mode) == (layout, mode)}
        on_targets = {case: cells[case] for case in cells if case.shape.name in TARGET_SHAPES}
        for kind, chosen in (("target shapes", on_targets), ("other shapes", cells.keys() - on_targets.keys())):
            for name in dict.fromkeys(name for case in chosen for name in ratios[case]):
                by_case = {case: ratios[case][name] for case in chosen}
                worst = max(by_case, key=by_case.__getitem__)
                line = f"{layout:13} {mode:8} {kind:13} {name:18} {geometric_mean(list(by_case.values())):.3f}"
                line += f" / {by_case[worst]:.3f} ({worst.shape.name} b{worst.batch}), {len(by_case)} cells"
                if name == "op" and kind == "target shapes" and (layout, mode) in TARGETS:
                    line += "; target {:.2f} / {:.2f}".format(*TARGETS[layout, mode])
                if name == "op_static" and kind == "target shapes":
                    line += f"; target {STATIC_MODULATION_TARGET}"
                yield line
        others = {case: to_composite[case] for case in to_composite if case in cells.keys() - on_targets.keys()}
        if others:
            worst = max(others, key=others.__getitem__)
            yield (
                f"{layout:13} {mode:8} other shapes  op / composite     {geometric_mean(list(others.values())):.3f}"
                f" / {others[worst]:.3f} ({worst.shape.name} b{worst.batch}); target {COMPOSITE_TARGET}"
            )


def arguments() -> argparse.Namespace:
    def listed(kind: Callable[[str], object]) -> Callable[[str], list[object]]:
        return lambda text: [kind(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", type=listed(str), default=list(TARGET_SHAPES), help="'all', or of " + ", ".join(SHAPES)
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
    shapes = SHAPES if options.shapes == ["all"] else options.shapes
    names = [STATIC, *(name for name in options.candidates if name != STATIC)]
    print(f"{'':44}{'static, ms':>11}" + "".join(f"{name:>25}" for name in names[1:]), flush=True)
    ratios: dict[Case, dict[str, float]] = {}
    to_composite = {}
    for case in cases(shapes, options.batches, options.layouts, options.modes):
        rounds = measure(case, names, options.rounds, not options.no_check)
        found = {name: rounds.ratio(name, STATIC) for name in names[1:]}
        ratios[case] = {name: spread.median for name, spread in found.items()}
        if {"op", "composite"} <= set(names):
            to_composite[case] = rounds.ratio("op", "composite").median
        columns = "".join(f"{s.median:10.3f} [{s.low:5.3f}, {s.high:5.3f}]" for s in found.values())
        note = f"   {rounds.discarded} samples retaken" if rounds.discarded else ""
        print(f"{case.name:44}{rounds.time(STATIC).median * 1e3:11.3f}{columns}{note}", flush=True)
    print("\nratio to static F.conv2d: geometric mean / worst")
    print("\n".join(summary(ratios, to_composite)))


if __name__ == "__main__":
    main()
