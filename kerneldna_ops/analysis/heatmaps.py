"""CKA as a picture: one square for each pair of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._extras import missing
from .._files import replacing
from .similarity import CKA

DPI = 150
_CELL = 0.13  # inches: room for a name in 6 points
_SMALLEST, _LARGEST = 2.5, 10.5  # inches, of the side of a heat map


def plot_heatmaps(path: Path, maps: Mapping[str, CKA]) -> None:
    """Write a PNG with the heat maps of `maps`, {title: CKA}, from left to right on one colour scale from 0 to 1.

    The first layer is at the bottom left, as in the figures of KernelDNA (arXiv 2503.23379) and of Nguyen et al. Every
    layer is named, and of more than 80 every second, third, ... A negative CKA has the colour of 0; where it does not
    exist the square is grey. The file appears whole or not at all.

    Raises:
        ValueError: `maps` is empty.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not maps:
        raise ValueError("plot_heatmaps: maps must hold at least one CKA, got none")
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing("plot_heatmaps: needs matplotlib", "train", error) from error

    widths = [_side(len(each.columns)) for each in maps.values()]
    height = max(_side(len(each.names)) for each in maps.values())
    figure = Figure(figsize=(sum(widths) + 1.5 * len(maps) + 1, height + 2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(maps), width_ratios=widths, squeeze=False)[0]
    colours = colormaps["magma"].with_extremes(bad="0.6")
    for axes, (title, each) in zip(panels, maps.items(), strict=True):
        image = axes.imshow(each.matrix.numpy(), origin="lower", cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title)
        _name(axes.set_xticks, each.columns, rotation=90)
        _name(axes.set_yticks, each.names)
    figure.colorbar(image, ax=panels, extend="min", label="linear CKA", shrink=0.8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _side(layers: int) -> float:
    return min(max(_SMALLEST, _CELL * layers), _LARGEST)


def _name(set_ticks: Any, names: Sequence[str], **style: Any) -> None:
    step = -(-len(names) * _CELL // _LARGEST)
    shown = range(0, len(names), max(1, int(step)))
    set_ticks(shown, [names[number] for number in shown], fontsize=6, **style)
