"""The results as a table, as JSON and as a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from kerneldna_ops.env import environment
from kerneldna_ops.measure.networks import Cost
from kerneldna_ops.measure.tables import markdown

from .experiment import BATCH_SIZE

COLOURS = ("#4d4d4d", "#0072b2", "#d55e00")


@dataclass(frozen=True)
class Row:
    """One variant; accuracies in percent, seed by seed, of the trainings that ended."""

    variant: str
    accuracies: list[float]
    cost: Cost
    peak_memory: int | None

    def __str__(self) -> str:
        deviation = f" ± {stdev(self.accuracies):.2f}" if len(self.accuracies) > 1 else ""
        return f"{mean(self.accuracies):.2f}{deviation}" if self.accuracies else "n/a"


HEADER = ("network", "seeds", "accuracy, %", "parameters", "MMAC per image", "forward, ms", "to static")
HEADER += ("training, ms", "to static", "peak memory, MiB")
NOTE = (
    "Images: scikit-learn's digits, {train} to train on, {validation} to report on, after the last of {epochs} epochs:"
    " mean ± deviation over seeds. Times: a batch of {batch} on {environment[devices][cpu]}, torch"
    " {environment[versions][torch]}, median [quartiles] of rounds in which the networks take turns; training is the"
    " forward pass and all gradients. Memory: what the latter add to the resident memory of their process at most."
)


def table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        cost = row.cost
        memory = "n/a" if row.peak_memory is None else f"{row.peak_memory / 2**20:.1f}"
        size = f"{cost.parameters:,}", f"{cost.macs / 1e6:.2f}"
        forward = f"{cost.forward_seconds * 1e3:.1f}", f"{cost.forward_ratio:.2f}"
        training = f"{cost.training_seconds * 1e3:.1f}", f"{cost.training_ratio:.2f}"
        lines.append([row.variant, str(len(row.accuracies)), str(row), *size, *forward, *training, memory])
    return markdown(HEADER, lines)


def write(folder: Path, rows: Sequence[Row], setting: Mapping[str, object]) -> None:
    """table.md, results.json and results.png."""
    about = {**setting, "batch": BATCH_SIZE, "environment": environment()}
    (folder / "table.md").write_text(f"{table(rows)}\n{NOTE.format_map(about)}\n")
    content = {"setting": about, "variants": [asdict(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    plot(rows).savefig(folder / "results.png", dpi=120)


def plot(rows: Sequence[Row]) -> Figure:
    """Accuracy against size, with the deviation over seeds, and times as multiples of static's, with quartiles."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (row, colour) in enumerate(zip(rows, COLOURS, strict=True)):
        if row.accuracies:
            deviation = stdev(row.accuracies) if len(row.accuracies) > 1 else None
            size, accuracy = row.cost.parameters / 1e3, mean(row.accuracies)
            left.errorbar(size, accuracy, deviation, fmt="o", color=colour, capsize=5, label=f"{row.variant}: {row} %")
        for place, ratio in enumerate((row.cost.forward_ratio, row.cost.training_ratio)):
            error = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
            label = row.variant if place == 0 else None
            bars = right.bar(place + 0.27 * (number - 1), ratio.median, 0.25, yerr=error, color=colour, label=label)
            right.bar_label(bars, fmt="%.2f", padding=4)
    left.set(xlabel="parameters, thousands", ylabel="accuracy, %", title="Handwritten digits: accuracy against size")
    left.set_xlim(left=0)
    if any(row.accuracies for row in rows):
        left.legend()
    right.set(title=f"Time for a batch of {BATCH_SIZE}", ylabel="multiple of the static network's")
    right.set_xticks([0, 1], ["forward", "training"])
    right.margins(y=0.15)
    right.legend()
    return figure
