"""The measurement of mixtures: every form computes the same, and one that does not is found out."""

import pytest

from benchmarks import mixtures
from benchmarks.mixtures import KERNELS, Cell

MODES = ("forward", "training")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(mixtures.SHAPES, "512@7", (6, 5))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernels", KERNELS)
def test_a_cell_is_measured(kernels, mode, layout):
    rounds = mixtures.measure(Cell(kernels, mode, "512@7", 2, layout), rounds=2)
    row = mixtures.row(Cell(kernels, mode, "512@7", 2, layout), rounds)
    assert set(row["seconds"]) == {"op", "grouped", "static"}
    assert f"{kernels}, {mode}, 512@7, batch 2, {layout}" in mixtures.table([row], {"cpu": "a processor"})


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_form_is_found_out(monkeypatch, mode):
    monkeypatch.setitem(mixtures.FORMS, "op", lambda x, weight, a, *scales: mixtures.op(x, weight, a + 0.01, *scales))
    with pytest.raises(AssertionError, match=f"^K=4, {mode}, 512@7 b2 nchw: off by"):
        mixtures.measure(Cell("K=4", mode, "512@7", 2, "nchw"), rounds=1)


def test_beside_a_single_sample_stands_the_time_of_reading_the_parents():
    row = mixtures.row(cell := Cell("K=8", "forward", "512@7", 1, "nchw"), mixtures.measure(cell, rounds=2))
    assert set(row["to static"]) == {"op", "grouped", "read"}


def test_peaks_of_memory_show_the_kernels_that_are_made_for_each_sample(monkeypatch):
    monkeypatch.undo()  # each figure is of a process of its own, which knows nothing of the small shape
    peaks = mixtures.peaks(Cell("K=4", "forward", "512@7", 32, "nchw"))
    kernels = 32 * 512 * 512 * 9 * 4
    assert peaks["grouped"] > kernels > 10 * peaks["op"]
    assert "| forward, 512@7 |" in mixtures.memory([{"mode": "forward", "shape": "512@7", "peaks": peaks}])


def test_the_summary_is_over_the_shapes():
    def row(shape, op):
        ratios = {form: {"median": median} for form, median in (("op", op), ("grouped", 2 * op))}
        return {"kernels": "K=4", "mode": "forward", "layout": "nchw", "batch": 8, "shape": shape, "to static": ratios}

    (line,) = mixtures.summary([row("64@56", 1.0), row("512@7", 4.0)])
    assert line == ["K=4, forward, nchw, batch 8", "2.00 / 4.00", "4.00 / 8.00"]
