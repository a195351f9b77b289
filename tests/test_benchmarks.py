"""The parts of benchmarks/ that a figure depends on and that can be wrong without anybody noticing."""

import argparse
import json
import sys

import pytest
import torch

from benchmarks import candidates, measure, options, paired, report
from benchmarks.cases import Case, Shape, make_operands
from benchmarks.paired import Rounds, Spread
from benchmarks.summary import Ratio, summarise


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("64@56", (64, 64, 56, 3, 1, 1, "3x3")),
        ("64->256@56", (64, 256, 56, 1, 1, 1, "1x1")),
        ("128@28s2", (128, 128, 28, 3, 2, 1, "3x3 stride 2")),
        ("96@56dw", (96, 96, 56, 3, 1, 96, "depthwise")),
    ],
)
def test_shape_names(name, expected):
    s = Shape.parse(name)
    assert (s.in_channels, s.out_channels, s.size, s.kernel, s.stride, s.groups, s.family) == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--shapes=64x56", "shape must be of the form 64@56"),
        ("--layouts=nhwc", "expected one of nchw, channels_last, got 'nhwc'"),
        ("--candidates=op,magic", "got 'magic'"),
    ],
)
def test_what_cannot_be_measured_is_refused(option, message, capsys):
    parser = argparse.ArgumentParser()
    options.add_cases(parser, ["forward"], ["op"])
    with pytest.raises(SystemExit):
        parser.parse_args([option])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["8@5", "8@6s2", "8->4@5", "8@5s2", "8@6dw"])
def test_the_gradient_has_the_shape_of_the_output(name):
    operands = make_operands(Case(Shape.parse(name), 2, "channels_last", "training"))
    assert candidates.static(operands).shape == operands.grad_output.shape


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("name", [name for name in candidates.CANDIDATES if name not in candidates.COMPILED])
def test_every_candidate_answers_as_the_reference(name, mode):
    for shape in ("8@5", "8->4@5", "8@6s2", "8@6dw"):
        calls = measure.checked_calls(Case(Shape.parse(shape), 2, "nchw", mode), [name])
        assert all(tensor.isfinite().all() for tensor in calls[name]())


def test_a_wrong_candidate_is_not_timed(monkeypatch):
    wrong = candidates.Candidate("forgets c", lambda o: candidates.static(o) * o.filter[:, :, None, None])
    monkeypatch.setitem(candidates.CANDIDATES, "wrong", wrong)
    with pytest.raises(AssertionError, match="wrong, 8@5 b2 nchw forward: output is off"):
        measure.checked_calls(Case(Shape.parse("8@5"), 2, "nchw", "forward"), ["wrong"])


def test_candidates_take_turns_in_alternating_order():
    order = []
    paired.alternate({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2, sample_seconds=0)
    assert "".join(order[4:8]) == "abba"


def test_disturbed_rounds_do_not_count(monkeypatch):
    samples = iter([(2.0, True), (99.0, False)] * 3 + [(2.0, True)] * 6)
    monkeypatch.setattr(paired, "undisturbed_sample", lambda call, calls: next(samples))
    rounds = paired.alternate({"a": lambda: None, "b": lambda: None}, rounds=3)
    assert rounds == Rounds({"a": [2.0] * 3, "b": [2.0] * 3}, undisturbed=True)


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr(paired, "undisturbed_sample", lambda call, calls: (1.0, False))
    assert not paired.alternate({"a": lambda: None}, rounds=3).undisturbed
    (line,) = summarise([ratio(1.0, 1), ratio(1.0, 8, undisturbed=False)])
    assert "1 DISTURBED" in str(line)


def test_a_ratio_is_formed_within_a_round():
    rounds = Rounds({"op": [2.0, 20.0, 6.0], "static": [1.0, 10.0, 2.0]}, True)
    assert rounds.ratio("op", "static") == Spread(2.0, 2.0, 2.5, 3)


def ratio(value, batch, base="static", shape="64@56", undisturbed=True):
    case = Case(Shape.parse(shape), batch, "nchw", "forward")
    return Ratio(case, "op", base, Spread(value, value, value, 9), undisturbed)


def test_summary_says_whether_a_target_is_met():
    (met,) = summarise([ratio(1.0, 1), ratio(1.1, 8)])
    assert (met.mean, met.worst.case.batch, met.cells, met.met) == (pytest.approx(1.1**0.5), 8, 2, True)
    (worst_missed,) = summarise([ratio(0.9, 1), ratio(1.13, 8)])
    assert not worst_missed.met
    (mean_missed,) = summarise([ratio(1.06, 1)])
    assert not mean_missed.met
    assert str(mean_missed).endswith("target 1.05 / 1.12 MISSED")


def test_summary_compares_with_composite_only_where_that_is_the_target():
    lines = summarise([ratio(1.0, 1, base="composite"), ratio(1.0, 1, base="composite", shape="96@56dw")])
    assert [line.family for line in lines] == ["depthwise"]


def test_report_is_written_from_the_saved_figures(tmp_path, monkeypatch, capsys):
    saved = {"median": 1.2, "low": 1.1, "high": 1.3, "rounds": 9}
    case = {"shape": "64@56", "batch": 8, "layout": "nchw", "mode": "forward", "undisturbed": True}
    entries = [
        {**case, "candidate": name, "seconds": {**saved, "median": 0.004}, "to_static": saved, "to_composite": saved}
        for name in ("static", "op")
    ]
    (tmp_path / "latency.json").write_text(json.dumps({"machine_info": {"cpu": "a processor"}, "benchmarks": entries}))
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    report.main()
    text = (tmp_path / "report.md").read_text()
    assert "cpu a processor" in text
    assert "| 64@56 b8 | 4.00 | 1.20 [1.10, 1.30] |" in text
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "MISSED" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured on Linux only")
def test_peak_memory_of_a_call_is_seen(monkeypatch):
    from benchmarks import memory

    case = Case(Shape.parse("8@5"), 2, "nchw", "forward")
    greedy = candidates.Candidate("takes 64 MiB", lambda o: torch.ones(16, 2**20))
    monkeypatch.setitem(candidates.CANDIDATES, "greedy", greedy)
    monkeypatch.setattr(memory, "prepare", lambda candidate, operands, mode: lambda: candidate.call(operands))
    assert 60 * memory.MEBI < memory.peak(case, "greedy") < 140 * memory.MEBI
