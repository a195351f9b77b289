"""Heat maps: the right size, one colour scale, and names that can be read."""

import sys
from itertools import pairwise

import numpy
import pytest
import torch

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.image import imread  # noqa: E402

from kerneldna_ops.analysis import CKA, plot_heatmaps  # noqa: E402
from kerneldna_ops.analysis.heatmaps import DPI  # noqa: E402

pytestmark = pytest.mark.usefixtures("threads")


def constant(value, rows=6, columns=None):
    columns = rows if columns is None else columns
    names, others = (tuple(f"layer{i // 9}.{i}.conv" for i in range(count)) for count in (rows, columns))
    return CKA(names, others, torch.full((rows, columns), value, dtype=torch.float64), 1, 4)


def share(pixels, value):
    """How much of the picture has the colour of this CKA, with which the colour bar has little to do."""
    colour = numpy.array(matplotlib.colormaps["magma"](value)[:3])
    return (numpy.abs(pixels[:, :, :3] - colour).max(2) < 0.01).mean()


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    saved = []
    original = Figure.savefig

    def savefig(figure, *args, **kwargs):
        saved.append(figure)
        original(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def test_before_and_after_have_one_scale(tmp_path, figures):
    """A matrix of one value has the colour of this value on the scale from 0 to 1, beside whatever other."""
    path = tmp_path / "folder" / "maps.png"
    plot_heatmaps(path, {"before": constant(0.5), "after": constant(0.8)})
    pixels = imread(path)
    width, height = figures[0].get_size_inches() * DPI
    assert pixels.shape == (int(height), int(width), 4)
    half = pixels.shape[1] // 2
    assert share(pixels[:, :half], 0.5) > 0.1
    assert share(pixels[:, half:], 0.8) > 0.1
    assert [axes.get_title() for axes in figures[0].axes] == ["before", "after", ""]
    assert figures[0].axes[2].get_ylabel() == "linear CKA"
    assert [each.name for each in path.parent.iterdir()] == ["maps.png"]


def test_the_first_layer_is_at_the_bottom_left(tmp_path, figures):
    similarity = constant(0.0)
    similarity.matrix[0, 1] = 1  # in the bottom row, the second from the left
    plot_heatmaps(tmp_path / "map.png", {"": similarity})
    pixels = imread(tmp_path / "map.png")
    left, bottom, right, top = (
        (figures[0].axes[0].get_window_extent().extents * DPI / figures[0].dpi).round().astype(int)
    )
    middles = [(number + 0.5) / 6 for number in range(6)]
    rows = [int(len(pixels) - bottom - (top - bottom) * middle) for middle in middles]
    columns = [int(left + (right - left) * middle) for middle in middles]
    bright = [(i, j) for i in range(6) for j in range(6) if pixels[rows[i], columns[j], :3].sum() > 1]
    assert bright == [(0, 1)]


def test_what_does_not_exist_is_grey(tmp_path):
    plot_heatmaps(tmp_path / "map.png", {"": constant(torch.nan)})
    pixels = imread(tmp_path / "map.png")
    assert (numpy.abs(pixels[:, :, :3] - 0.6).max(2) < 0.01).mean() > 0.1


@pytest.mark.parametrize("layers", [1, 60])
def test_every_layer_has_a_name_that_no_other_covers(tmp_path, figures, layers):
    similarity = constant(0.5, layers)
    plot_heatmaps(tmp_path / "map.png", {"": similarity})
    axes = figures[0].axes[0]
    rows, columns = axes.get_yticklabels(), axes.get_xticklabels()
    for labels in (rows, columns):
        assert [label.get_text() for label in labels] == list(similarity.names)
        assert labels[0].get_fontsize() >= 6
    rows, columns = ([label.get_window_extent() for label in labels] for labels in (rows, columns))
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(rows))
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(columns))


def test_of_very_many_layers_some_are_named(tmp_path, figures):
    plot_heatmaps(tmp_path / "map.png", {"": constant(0.5, rows=6, columns=200)})
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(constant(0.5).names)
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == list(constant(0.5, columns=200).columns[::3])


def test_a_failure_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    plot_heatmaps(path, {"": constant(0.5)})
    before = path.read_bytes()

    def full(figure, file, **kwargs):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        plot_heatmaps(path, {"": constant(0.9)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bad_input(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^plot_heatmaps: maps must hold at least one CKA, got none$"):
        plot_heatmaps(tmp_path / "map.png", {})
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"^plot_heatmaps: needs matplotlib, which cannot .*\[train\]"):
        plot_heatmaps(tmp_path / "map.png", {"": constant(0.5)})
