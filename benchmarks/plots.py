"""Ratios to static F.conv2d as dots: one panel for each mode, layout and dtype, one column for each shape and batch."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import NullFormatter, ScalarFormatter

from .cases import Case
from .summary import Ratio

# The op stands out; what it is compared with is told apart by shape as well as by colour.
STYLES = {
    "op": ("tab:red", "o", "op: c, f, s per sample"),
    "op_static": ("tab:orange", "s", "op: c per sample, f and s static"),
    "composite": ("tab:blue", "v", "composite: c, f, s per sample"),
    "composite_static": ("tab:cyan", "^", "composite: c per sample, f and s static"),
    "triton": ("tab:purple", "D", "backend='triton'"),
    "cuda": ("tab:pink", "P", "backend='cuda'"),
    "grouped": ("black", "x", "grouped convolution"),
    "loop": ("tab:gray", "+", "loop of convolutions"),
    "compiled_static": ("tab:brown", "3", "torch.compile of static"),
    "compiled_reference": ("tab:green", "1", "torch.compile of the reference"),
    "compiled_composite": ("tab:olive", "2", "torch.compile of composite"),
}
TICKS = (0.5, 0.7, 0.85, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50)


def panel(case: Case) -> str:
    return f"{case.mode}, {case.layout}, {case.dtype}"


def plot(ratios: Sequence[Ratio], file: Path) -> None:
    panels = list(dict.fromkeys(panel(ratio.case) for ratio in ratios))
    if not panels:
        return
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(14, 3.4 * len(panels)), squeeze=False, layout="constrained")
    for title, axis in zip(panels, axes[:, 0], strict=True):
        chosen = [ratio for ratio in ratios if panel(ratio.case) == title]
        columns = list(dict.fromkeys(f"{ratio.case.shape.name}\nb{ratio.case.batch}" for ratio in chosen))
        for name, (colour, marker, label) in STYLES.items():
            points = [ratio for ratio in chosen if ratio.candidate == name]
            if not points:
                continue
            x = [columns.index(f"{ratio.case.shape.name}\nb{ratio.case.batch}") for ratio in points]
            y = [ratio.spread.median for ratio in points]
            low = [ratio.spread.median - ratio.spread.low for ratio in points]
            high = [ratio.spread.high - ratio.spread.median for ratio in points]
            axis.errorbar(x, y, (low, high), fmt=marker, color=colour, label=label, markersize=6, elinewidth=1)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())
        ticks = [tick for tick in TICKS if axis.get_ylim()[0] <= tick <= axis.get_ylim()[1]]
        axis.set_yticks(ticks, [str(tick) for tick in ticks])
        axis.set_xticks(range(len(columns)), columns, fontsize=8)
        axis.set_title(f"{title}: time relative to static F.conv2d", fontsize=10)
        axis.grid(axis="y", linewidth=0.4)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, fontsize=9, loc="outside upper center")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
