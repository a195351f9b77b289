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


def test_the_summary_is_over_the_shapes():
    def row(shape, op):
        ratios = {form: {"median": median} for form, median in (("op", op), ("grouped", 2 * op))}
        return {"kernels": "K=4", "mode": "forward", "layout": "nchw", "batch": 8, "shape": shape, "to static": ratios}

    (line,) = mixtures.summary([row("64@56", 1.0), row("512@7", 4.0)])
    assert line == ["K=4, forward, nchw, batch 8", "2.00 / 4.00", "4.00 / 8.00"]
