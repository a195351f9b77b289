"""Accuracy against each cost: one picture for each network, one panel for each measure."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from .report import MEASURES, Row
from .variants import VARIANTS

COLOURS = ("#4d4d4d", "#a6a6a6", "#d55e00", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#cc79a7", "#7f5f00")
MARKERS = "sPoDv^<>X"
# Label and unit.
AXES = {
    "parameters": ("thousand parameters", 1e3),
    "multiplications": ("million multiplications for an image", 1e6),
    "forward time": ("time of a forward pass, to static", 1),
    "training time": ("time of a training step, to static", 1),
}


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """The bars are the deviation over seeds, and the quartiles of the times."""
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    for panel, (measure, of) in zip(panels.flat, MEASURES.items(), strict=True):
        label, unit = AXES[measure]
        for row in rows:
            number = list(VARIANTS).index(row.variant)
            panel.errorbar(
                of(row) / unit,
                row.accuracy,
                yerr=row.deviation,
                xerr=_quartiles(row, measure),
                fmt=MARKERS[number],
                color=COLOURS[number],
                markersize=8,
                capsize=3,
                label=row.label,
            )
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(label)
        panel.grid(color="#dddddd", linewidth=0.5)
        panel.set_axisbelow(True)
    for panel in panels[:, 0]:
        panel.set_ylabel("test accuracy, %")
    figure.suptitle(title)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), ncols=5, loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=110)


def _quartiles(row: Row, measure: str) -> list[list[float]] | None:
    ratios = {"forward time": row.cost.forward_ratio, "training time": row.cost.training_ratio}
    if measure not in ratios:
        return None
    spread = ratios[measure]
    return [[spread.median - spread.low], [spread.high - spread.median]]
