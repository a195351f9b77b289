"""The results as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._files import replacing
from .measure import BATCH_SIZE
from .report import Row

COLOURS = {"static": "#4d4d4d", "kerneldna": "#0072b2", "kerneldna-dynamic": "#d55e00"}
MARKERS = {"static": "s", "kerneldna": "o", "kerneldna-dynamic": "D"}


def plot_accuracy(path: Path, rows: Sequence[Row]) -> None:
    """Test accuracy against parameters, of the rows that have an accuracy; the bars are the deviation over seeds."""
    figure, axes = _figure()
    for row in rows:
        if row.accuracy_percent is None:
            continue
        thousands = row.parameters / 1e3
        deviation = "" if row.accuracy_deviation is None else f" ± {row.accuracy_deviation:.2f}"
        axes.errorbar(
            thousands,
            row.accuracy_percent,
            yerr=row.accuracy_deviation,
            fmt=MARKERS[row.variant],
            markersize=9,
            capsize=5,
            color=COLOURS[row.variant],
            label=f"{row.variant}\n{row.accuracy_percent:.2f}{deviation} %\n{thousands:.1f} thousand",
        )
    axes.set_title("Handwritten digits: accuracy against size")
    axes.set_xlabel("parameters, thousands")
    axes.set_xlim(0, 1.1 * max(row.parameters for row in rows) / 1e3)
    axes.set_ylabel("test accuracy, %  (mean, deviation over seeds)")
    axes.margins(y=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, labelspacing=1)
    _save(figure, path)


def plot_latency(path: Path, rows: Sequence[Row]) -> None:
    """Time of a batch as a multiple of static's, forward and training; the bars are the quartiles over rounds."""
    figure, axes = _figure()
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        centres = [group + (number - (len(rows) - 1) / 2) * width for group in range(2)]
        heights = [row.forward_ratio, row.training_ratio]
        low = [row.forward_ratio_low, row.training_ratio_low]
        high = [row.forward_ratio_high, row.training_ratio_high]
        below = [height - bound for height, bound in zip(heights, low, strict=True)]
        above = [bound - height for height, bound in zip(heights, high, strict=True)]
        axes.bar(
            centres,
            heights,
            0.92 * width,
            yerr=[below, above],
            capsize=5,
            color=COLOURS[row.variant],
            label=row.variant,
        )
        for centre, height, top in zip(centres, heights, high, strict=True):
            axes.annotate(
                f"{height:.2f}", (centre, top), xytext=(0, 4), textcoords="offset points", ha="center", va="bottom"
            )
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_title(f"Time for a batch of {BATCH_SIZE} images")
    axes.set_xticks(
        range(2),
        [
            f"forward\n(static: {rows[0].forward_ms:.1f} ms)",
            f"training step\n(static: {rows[0].training_ms:.1f} ms)",
        ],
    )
    axes.set_ylabel("multiple of the static network's  (median, quartiles)")
    axes.margins(y=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    _save(figure, path)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
