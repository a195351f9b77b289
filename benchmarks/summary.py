"""Geometric mean and worst cell of the ratios, beside the project's targets."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from statistics import geometric_mean

from kerneldna_ops.measure.time import Rounds, Spread

from .candidates import STATIC
from .cases import LAYOUTS, MODES, Case

# (family of shapes, layout, mode, candidate, base) -> the geometric mean and the worst cell to reach.
TARGETS: dict[tuple[str, ...], tuple[float, float]] = {
    ("3x3", "nchw", "forward", "op", STATIC): (1.05, 1.12),
    ("3x3", "channels_last", "forward", "op", STATIC): (1.10, 1.20),
    ("3x3", "nchw", "training", "op", STATIC): (1.10, 1.25),
}
for layout, mode in product(LAYOUTS, MODES):
    TARGETS["3x3", layout, mode, "op_static", STATIC] = (1.03, 1.03)
    for family in ("1x1", "3x3 stride 2", "depthwise"):
        TARGETS[family, layout, mode, "op", "composite"] = (1.03, 1.03)
# On a GPU.
TARGETS |= {
    ("3x3 b128 bfloat16", "channels_last", "forward", "op", STATIC): (1.00, 1.10),
    ("3x3 b128 bfloat16", "channels_last", "training", "op", STATIC): (1.15, 1.15),
    ("1x1 b128 bfloat16", "channels_last", "forward", "op", STATIC): (1.05, 1.05),
}


@dataclass(frozen=True)
class Ratio:
    """How many times as long as `base` the candidate takes."""

    case: Case
    candidate: str
    base: str
    spread: Spread
    undisturbed: bool

    @staticmethod
    def of(case: Case, candidate: str, base: str, rounds: Rounds) -> "Ratio":
        return Ratio(case, candidate, base, rounds.ratio(candidate, base), rounds.undisturbed)


@dataclass(frozen=True)
class Line:
    """One candidate over all cases of a family of shapes, in one layout and mode."""

    family: str
    layout: str
    mode: str
    candidate: str
    base: str
    mean: float
    worst: Ratio
    cells: int
    disturbed: int

    @property
    def target(self) -> tuple[float, float] | None:
        return TARGETS.get((self.family, self.layout, self.mode, self.candidate, self.base))

    @property
    def met(self) -> bool:
        mean, worst = self.target or (float("inf"), float("inf"))
        return self.mean <= mean and self.worst.spread.median <= worst

    def __str__(self) -> str:
        case = self.worst.case
        text = f"{self.layout:13} {self.mode:8} {self.family:25} {self.candidate:18} to {self.base:9}"
        text += f" {self.mean:6.3f} / {self.worst.spread.median:6.3f} ({case.shape.name} b{case.batch}),"
        text += f" {self.cells} cells"
        if self.target:
            text += "; target {:.2f} / {:.2f}".format(*self.target) + (" met" if self.met else " MISSED")
        if self.disturbed:
            text += f"; {self.disturbed} DISTURBED: the machine was busy, so these say little"
        return text


def summarise(ratios: Iterable[Ratio]) -> list[Line]:
    """Ratios to static F.conv2d, and to composite where a target is stated so."""
    groups: dict[tuple[str, ...], list[Ratio]] = {}
    for ratio in ratios:
        key = (ratio.case.family, ratio.case.layout, ratio.case.mode, ratio.candidate, ratio.base)
        if ratio.base == STATIC or key in TARGETS:
            groups.setdefault(key, []).append(ratio)
    lines = []
    for (family, layout, mode, candidate, base), cells in groups.items():
        mean = geometric_mean([ratio.spread.median for ratio in cells])
        worst = max(cells, key=lambda ratio: ratio.spread.median)
        disturbed = sum(not ratio.undisturbed for ratio in cells)
        lines.append(Line(family, layout, mode, candidate, base, mean, worst, len(cells), disturbed))
    return lines
