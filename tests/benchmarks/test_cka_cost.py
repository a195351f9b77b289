"""benchmarks/cka_cost.py runs, and writes what it measured."""

import json
import sys

import pytest

from benchmarks import cka_cost


def test_small(tmp_path, monkeypatch, capsys, threads):
    path = tmp_path / "cost.json"
    options = ["--images=10", "--batch-size=5", "--image-size=32", "--threads=1", f"--json={path}"]
    monkeypatch.setattr(sys, "argv", ["cka_cost", *options])
    cka_cost.main()
    content = json.loads(path.read_text())
    assert (content["images"], content["batch_size"], content["image_size"]) == (10, 5, 32)
    assert content["machine"]["threads"] == 1
    assert "package" not in content["machine"]
    for costs in content["costs"].values():
        assert min(costs.values()) > 0
    assert "targets of 300 s and 4 GB: " in capsys.readouterr().out


def test_batches_are_the_same_each_time():
    first, again = (list(cka_cost.batches(10, 4, 8)) for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert all(one.equal(other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("seconds", "peak", "word"), [(301, 1e9, "missed"), (10, 4e9, "missed"), (300, 3.9e9, "reached")]
)
def test_targets(seconds, peak, word):
    assert cka_cost.verdict({"seconds": seconds, "peak_bytes": peak}).endswith(word)
