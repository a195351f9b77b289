"""The results as a table, and in words where KernelDNA loses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from kerneldna_ops.measure import tables
from kerneldna_ops.measure.networks import Cost

from .train import Trained
from .variants import STATIC, VARIANTS

OURS = ("kerneldna", "kerneldna-dynamic")


@dataclass(frozen=True)
class Row:
    """One variant of one network; accuracies in percent, seed by seed."""

    network: str
    variant: str
    accuracies: list[float]
    cost: Cost

    @property
    def label(self) -> str:
        return VARIANTS[self.variant].label

    @property
    def accuracy(self) -> float:
        return mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


# What accuracy is weighed against, smaller being better.
MEASURES = {
    "parameters": lambda row: row.cost.parameters,
    "multiplications": lambda row: row.cost.macs,
    "forward time": lambda row: row.cost.forward_ratio.median,
    "training time": lambda row: row.cost.training_ratio.median,
}


def make_rows(trained: Sequence[Trained], costs: Mapping[str, Mapping[str, Cost]]) -> list[Row]:
    rows = []
    for network, of_variants in costs.items():
        for variant, cost in of_variants.items():
            chosen = [done for done in trained if (done.run.network, done.run.variant) == (network, variant)]
            accuracies = [done.accuracy for done in sorted(chosen, key=lambda done: done.run.seed)]
            rows.append(Row(network, variant, accuracies, cost))
    return rows


def markdown(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    lines = ["# Accuracy against size and time, Fashion-MNIST", "", *(f"* {note}" for note in notes(about)), ""]
    times = "forward, ms", "to static", "training, ms", "to static"
    header = "variant", "test accuracy, %", "parameters", "MMAC", *times
    for network in dict.fromkeys(row.network for row in rows):
        chosen = [row for row in rows if row.network == network]
        lines += [f"## Small {network}", "", tables.markdown(header, map(_cells, chosen))]
        lines += [f"* {sentence}" for sentence in losses(chosen)]
        lines.append("")
    return "\n".join(lines)


def notes(about: Mapping[str, Any]) -> list[str]:
    """How the figures came about; `about` as in results.json."""
    seeds, machine = about["seeds"], about["machine_info"]
    lines = [
        f"{about['train']:,} images to train on, {about['test']:,} to test; epochs: {about['epochs']},"
        f" seeds: {seeds}, the same recipe for all. Accuracy is that after the last epoch, mean ±"
        " deviation over seeds; no epoch was chosen by it.",
        "Times are of a batch of 128, attention included: median [quartiles], ratios within rounds in which all"
        f" variants take turns. {machine.get('gpu', machine['cpu'])}, torch {machine['torch']}, commit"
        f" {machine['commit']}.",
        "The layers of one shape inside a stage are what differs. KernelDNA's children borrow a parent's kernel there;"
        " a peer's layers stand in all of these places. `static, narrow` has fewer channels and about as many"
        " parameters as KernelDNA.",
    ]
    if about["name"] == "short":
        lines.insert(0, "**Short form: too few images, epochs and seeds to say who wins. It shows that all runs.**")
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    cost = row.cost
    deviation = "" if row.deviation is None else f" ± {row.deviation:.2f}"
    mark = "" if cost.undisturbed else " (disturbed)"
    cells = [row.label + mark, f"{row.accuracy:.2f}{deviation}", f"{cost.parameters:,}", f"{cost.macs / 1e6:.2f}"]
    for seconds, ratio in ((cost.forward_seconds, cost.forward_ratio), (cost.training_seconds, cost.training_ratio)):
        cells.append(f"{1e3 * seconds.median:.1f}")
        cells.append("1" if row.variant == STATIC else f"{ratio:.2f}")
    return tuple(cells)


def losses(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for each KernelDNA variant of a network and each measure by which others are better in both."""
    for ours in (row for row in rows if row.variant in OURS):
        for measure, of in MEASURES.items():
            better = [
                f"{row.label} ({row.accuracy - ours.accuracy:+.2f} points, {of(row) / of(ours):.2f} times)"
                for row in rows
                if row.variant not in OURS and row.accuracy >= ours.accuracy and of(row) <= of(ours)
            ]
            if better:
                yield f"{ours.label} loses by accuracy and {measure} to {', '.join(better)}."
