"""The table of measured winners: its classes are those of the C++ library, and the automatic choice follows it."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import pytest
import torch

from benchmarks import winners as benchmark
from benchmarks.winners import CANDIDATES, COMPOSITE_WINS_ABOVE, NATIVE
from kerneldna_ops import backends, compatible_backends, use_backend
from kerneldna_ops.backends import _winners
from kerneldna_ops.backends._winners import AXES, CLASSES, Winner, class_number, class_of
from support import layouts, truths
from support.cases import CASES, SAMPLE, STATIC, Case, build

pytestmark = pytest.mark.usefixtures("threads")

conv = torch.ops.kerneldna.conv
conv_backward = torch.ops.kerneldna.conv_backward
select_in_python = torch.ops.kerneldna._select_in_python

FILES = sorted((Path(backends.__file__).parent / "winners").glob("*.json"))
KINDS = {
    "dense": {},
    "pointwise": {"kernel": (1, 1)},
    "depthwise": {"groups": 4},
    "grouped": {"groups": 2},
}


def call_of(of):
    """A call of this class."""
    size = (25, 26) if of["map"] == "large" else (5, 6)
    layout = "channels_last" if of["layout"] == "channels_last" else "contiguous"
    spatial = SAMPLE if of["spatial"] == "per_sample" else STATIC
    case = Case("class", (2, 4, *size), 8, spatial=spatial, input_layout=layout, **KINDS[of["kind"]])
    return build(case, getattr(torch, of["dtype"]))


CALLS = {class_number(of): call_of(of) for of in _winners.classes()}
CALL = CALLS[0]
COMPOSITE = Winner("composite", "measured faster (ratio 1.50)")


def goes_to_python(op, *args):
    backends._plans.forget()
    with mock.patch.object(backends, "select", wraps=backends.select) as select:
        op(*args)
    return select.called


def classes_of_python():
    return {number for number, call in CALLS.items() if goes_to_python(conv, *call)}


def test_every_class_has_a_number():
    assert sorted(CALLS) == list(range(CLASSES))
    known = 2 * CLASSES + 5  # on CUDA too, and those of squeeze_excite and of calls with more than one kernel
    with pytest.raises(RuntimeError, match=f"classes must be between 0 and {known - 1}, got {known}"):
        select_in_python([known])


def test_the_numbers_are_those_of_the_library(winners):
    for number, call in CALLS.items():
        assert class_of(call) == number
        select_in_python([number])
        assert classes_of_python() == {number}


EDGES = [Case("just_large", (1, 2, 16, 32), 3, (1, 1)), Case("just_small", (1, 2, 7, 73), 3, (1, 1))]
LAYOUTS = [
    Case("layouts", size, 3, (1, 1), input_layout=layout)
    for size in ((2, 3, 4, 5), (1, 3, 1, 5), (2, 1, 4, 5), (2, 3, 1, 1), (0, 3, 4, 5))
    for layout in layouts.IMAGES
]
ABSENT = [Case("no_attention", (2, 3, 4, 5), 3, spatial="absent")]


def test_odd_calls_have_the_class_that_the_library_gives_them(winners):
    for case in CASES + EDGES + LAYOUTS + ABSENT:
        call = build(case, torch.float32)
        number = class_of(call) if call.kernels == "shared" else 2 * CLASSES + 3
        grad, mask = torch.zeros(case.output), [tensor is not None for tensor in call.tensors]
        select_in_python([number])
        assert goes_to_python(conv, *call), case
        assert goes_to_python(conv_backward, grad, *call, mask), case
        select_in_python([other for other in range(2 * CLASSES + 5) if other != number])
        assert not goes_to_python(conv, *call), case
        assert not goes_to_python(conv_backward, grad, *call, mask), case


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_table_is_sound(file):
    assert file.stem in ("cpu_avx512", "cpu_avx2", "cpu_portable")
    measurements = json.loads(file.read_text())["measurements"]
    rows = [row for measurement in measurements for row in measurement["rows"]]
    assert rows
    assert len({class_number(row) for row in rows}) == len(rows)
    for row in rows:
        assert row["winner"] in backends.AUTOMATIC
        assert row["winner"] == ("composite" if row["ratio"] > COMPOSITE_WINS_ABOVE else NATIVE)
        assert row["ratio"] == pytest.approx((row["forward"] * row["training"]) ** 0.5, abs=2e-3)
        assert 0 < row["lowest"] <= row["ratio"] <= row["highest"]
        assert row["cases"] >= row["disturbed"] >= 0
    for measurement in measurements:
        assert {"cpu", "cores", "threads", "torch", "build", "commit", "rounds"} <= set(measurement["how"])
        assert f"cpu_vector={file.stem.removeprefix('cpu_')}" in measurement["how"]["build"]
    assert set(_winners.read(file)) == {class_number(row) for row in rows if row["winner"] != NATIVE}


def test_a_fresh_process_follows_the_table_of_its_processor():
    code = "import test_winners; print(*test_winners.classes_of_python())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KERNELDNA_BACKEND": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert {int(number) for number in done.stdout.split()} == set(_winners.table("cpu"))


def backward(call):
    call = call._replace(input=call.input.clone().requires_grad_())
    conv(*call).sum().backward()


def test_the_automatic_choice_follows_the_table(winners, ran):
    winners({5: COMPOSITE, 77: COMPOSITE})
    assert classes_of_python() == {5, 77}
    assert ran == ["composite", "composite"]
    ran.clear()
    backward(CALLS[5])
    backward(CALLS[6])
    assert ran == ["composite", "composite backward"]


def test_the_explicit_choice_overrides_the_table(winners, ran):
    winners({0: COMPOSITE})
    with use_backend("reference"):
        conv(*CALL)
    with use_backend("cpu"):
        conv(*CALL)
        with use_backend(None):
            conv(*CALL)
    assert ran == ["reference", "composite"]
    assert classes_of_python() == {0}


def test_a_thread_without_a_choice_follows_the_table_while_another_one_has_one(winners, ran):
    winners({0: COMPOSITE})
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: [conv(*CALLS[number]) for number in (0, 1)])
        thread.start()
        thread.join()
    assert ran == ["composite"]


def test_the_reason_is_logged(winners, caplog):
    winners({0: COMPOSITE})
    with caplog.at_level(logging.DEBUG, "kerneldna_ops"):
        conv(*CALL)
    (record,) = caplog.records
    assert record.getMessage() == "composite: automatic choice, measured faster (ratio 1.50), runs anywhere"


def test_a_winner_that_cannot_run_leaves_the_call_to_the_next(winners, caplog, monkeypatch):
    winners({0: COMPOSITE})
    monkeypatch.setattr(backends.composite, "can_run", lambda *args: (False, "it is out of order"))
    with caplog.at_level(logging.DEBUG, "kerneldna_ops"):
        conv(*CALL)
    (record,) = caplog.records
    assert record.getMessage().startswith("cpu: automatic choice, fused")
    assert record.getMessage().endswith("; not composite because it is out of order")


def test_the_winner_comes_first_among_the_compatible_backends(winners):
    winners({0: COMPOSITE})
    assert compatible_backends(**CALL._asdict())[:3] == ["composite", "cpu", "reference"]
    assert compatible_backends(**CALLS[1]._asdict())[:3] == ["cpu", "composite", "reference"]


@pytest.fixture
def file(monkeypatch, tmp_path):
    """The file of this processor, which is not there at first."""
    file = tmp_path / "cpu.json"
    monkeypatch.setattr(_winners, "file_of_the_cpu", lambda: file)
    _winners.table.cache_clear()
    yield file
    monkeypatch.undo()
    _winners.table.cache_clear()
    backends._selection.publish()


def test_on_a_processor_that_nobody_measured_composite_answers_where_it_is_cheap(file):
    backends._selection.publish()
    assert classes_of_python() == {class_number(of) for of in _winners.classes() if of["spatial"] == "static"}


def test_the_table_of_the_cpu_is_not_that_of_other_devices(file):
    file.write_text(json.dumps({"measurements": [{"rows": []}]}))
    elsewhere = truths.map_tensors(lambda tensor: tensor.to("meta"), CALL)
    assert next(iter(backends.preference(CALL))) == "cpu"
    assert next(iter(backends.preference(elsewhere))) == "composite"


# The measurement


def test_each_candidate_runs_as_the_automatic_choice_would_run_it(winners, ran):
    benchmark.answer_by_composite()
    case = benchmark.Case(benchmark.Shape.parse("8@5"), 2, "nchw", "training")
    operands = benchmark.make_operands(case)
    calls = {name: benchmark.prepare(benchmark.candidate(name), operands, "training") for name in CANDIDATES}
    calls[NATIVE]()
    assert ran == []
    calls["composite"]()
    assert ran == ["composite", "composite backward"]


def test_a_wrong_answer_is_not_timed():
    calls = {NATIVE: lambda: [torch.tensor([1.0, 2.0])], "composite": lambda: [torch.tensor([1.0, 2.1])]}
    with pytest.raises(AssertionError, match=r"the two backends differ by 4\.8e-02 of the range"):
        benchmark.check_agreement(calls, "float32")


def test_every_class_has_cases():
    for of in _winners.classes():
        modes = [case.mode for case in benchmark.cases(of)]
        assert modes.count("forward") == modes.count("training") > 0


@pytest.mark.parametrize(("ratios", "winner"), [((1.0, 1.05), NATIVE), ((1.0, 1.08), "composite")])
def test_composite_must_win_by_more_than_3_percent(ratios, winner):
    of = dict(zip(AXES, ("float32", "dense", "static", "nchw", "small"), strict=True))
    row = benchmark.row(of, {"forward": [ratios[0]] * 2, "training": [ratios[1]] * 2}, disturbed=1)
    assert row["winner"] == winner
    assert row["ratio"] == pytest.approx((ratios[0] * ratios[1]) ** 0.5, abs=1e-3)
    assert (row["lowest"], row["highest"], row["cases"], row["disturbed"]) == (*ratios, 4, 1)


def test_measuring_replaces_the_classes_asked_for(file, winners, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "restart_with", lambda allocator: None)
    monkeypatch.setattr(benchmark, "SHAPES", {"grouped": ("8@5g2", "8@23g2")})
    old = {"spatial": "static", "layout": "nchw", "map": "small", "ratio": 2.0, "winner": "composite"}
    kept, gone = ({"dtype": dtype, "kind": "grouped", **old} for dtype in ("float64", "float32"))
    file.write_text(json.dumps({"measurements": [{"how": {"cpu": "another"}, "rows": [kept, gone]}]}))
    monkeypatch.setattr("sys.argv", ["winners", "--dtypes=float32", "--kinds=grouped", "--threads=1"])
    benchmark.main()
    first, second = json.loads(file.read_text())["measurements"]
    assert first == {"how": {"cpu": "another"}, "rows": [kept]}
    assert [{axis: row[axis] for axis in AXES} for row in second["rows"]] == [
        of for of in _winners.classes() if (of["dtype"], of["kind"]) == ("float32", "grouped")
    ]
    assert second["how"]["threads"] == 1
    assert "package" not in second["how"]
    assert class_number(kept) in _winners.read(file)
    assert "8/8 float32 grouped per_sample channels_last large" in capsys.readouterr().out
