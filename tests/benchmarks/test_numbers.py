"""The committed pages of measurements are what the saved measurements make of them."""

from benchmarks import numbers, report


def test_the_committed_page_is_the_one_that_is_made():
    assert numbers.PAGE.read_text() == numbers.page(), "run python -m benchmarks.numbers"


def test_the_committed_report_is_the_one_that_is_made():
    made = "\n".join(report.lines(numbers.RESULTS))
    assert (numbers.RESULTS / "report.md").read_text() == made, "run python -m benchmarks.report benchmarks/results"


def test_the_picture_shows_every_candidate_at_every_shape(tmp_path):
    pictured = numbers.pictured()
    assert set(pictured) == {"forward", "training"}
    assert all(len(ratios) == len(numbers.PLAIN_SHAPES) for of in pictured.values() for ratios in of.values())
    numbers.draw(tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").stat().st_size > 10_000
