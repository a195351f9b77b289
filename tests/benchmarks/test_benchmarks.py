"""The parts of benchmarks/ that a figure depends on and that can be wrong without anybody noticing."""

import argparse
import functools
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import candidates, cases, devices, entries, measure, options, report, squeeze_excite
from benchmarks.cases import Case, Shape, make_operands
from benchmarks.summary import Ratio, summarise
from kerneldna_ops.measure.time import Rounds, Spread


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
    assert candidates.static(operands.call).shape == operands.grad_output.shape


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("name", [name for name in candidates.CANDIDATES if name not in candidates.COMPILED])
def test_every_candidate_answers_as_the_reference(name, mode):
    for shape in ("8@5", "8->4@5", "8@6s2", "8@6dw"):
        case = Case(Shape.parse(shape), 2, "nchw", mode)
        calls, left_out = measure.checked_calls(case, [name])
        if name in candidates.GPU_BACKENDS:  # how they answer, the tests of the backends know
            assert not any(fault.wrong for fault in left_out.values()), left_out
            continue
        assert left_out == {}
        assert all(tensor.isfinite().all() for tensor in calls[name]())


@pytest.mark.parametrize("named", ["tf32", "float16", "bfloat16", "float64"])
def test_candidates_are_checked_in_every_dtype(named):
    case = Case(Shape.parse("8@5"), 2, "channels_last", "training", named)
    calls, left_out = measure.checked_calls(case, ["static", "op", "op_static", "composite", "grouped", "loop"])
    assert left_out == {}
    (output, *_) = calls["op"]()
    assert output.dtype is cases.DTYPES[named]


def test_every_case_is_compiled_for_however_many_there_are(monkeypatch):
    from torch._dynamo.utils import counters

    eager = functools.cache(lambda call: torch.compile(call, dynamic=False, backend="eager"))
    monkeypatch.setattr(candidates, "compiled", eager)
    for batch in (1, 2, 3):
        before = counters["stats"]["unique_graphs"]
        case = Case(Shape.parse("8@3"), batch, "nchw", "forward")
        with torch._dynamo.config.patch(recompile_limit=2):  # timm, where imported, sets it to a million
            _, left_out = measure.checked_calls(case, ["compiled_composite"])
        assert left_out == {}
        assert counters["stats"]["unique_graphs"] == before + 1


FORGETS_C = candidates.Candidate("forgets c", lambda o: candidates.static(o) * o.filter_attention[:, :, None, None])


def fault_of(candidate, monkeypatch, mode="forward", dtype="float32"):
    monkeypatch.setitem(candidates.CANDIDATES, "wrong", candidate)
    calls, left_out = measure.checked_calls(Case(Shape.parse("8@5"), 2, "nchw", mode, dtype), ["static", "wrong"])
    assert list(calls) == ["static"]
    return left_out["wrong"]


def test_a_wrong_candidate_is_not_timed(monkeypatch):
    fault = fault_of(FORGETS_C, monkeypatch)
    assert fault.wrong
    assert fault.why.startswith("output is off by ")
    assert fault_of(FORGETS_C, monkeypatch, dtype="bfloat16").wrong
    not_written = candidates.Candidate("NaN", lambda o: candidates.composite(o) * torch.nan)
    assert fault_of(not_written, monkeypatch).why == "output is off by nan of its range"


def test_a_wrong_gradient_is_not_timed(monkeypatch):
    def call(o):
        y = candidates.composite(o)
        return y + (o.channel_attention - o.channel_attention.detach()).sum()

    assert fault_of(candidates.Candidate("", call), monkeypatch, "training").why.startswith(
        "channel_attention is off by "
    )


def test_a_candidate_that_raises_is_left_out_and_the_others_are_timed(monkeypatch):
    def call(o):
        raise RuntimeError("too many registers")

    assert fault_of(candidates.Candidate("", call), monkeypatch) == measure.LeftOut(
        "RuntimeError: too many registers", wrong=True
    )


def test_a_backend_that_does_not_run_here_is_no_fault(monkeypatch):
    fault = fault_of(candidates.by("cuda"), monkeypatch)
    assert not fault.wrong
    assert "CUDA" in fault.why


def test_on_a_gpu_calls_take_turns_on_more_than_the_cache_holds(monkeypatch):
    sets = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(L2_cache_size=2**20))
    monkeypatch.setattr(devices, "torch_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(cases, "torch_device", lambda name: torch.device("cpu"))
    seen = candidates.Candidate("", lambda o: sets.append(o.input.data_ptr()) or candidates.composite(o))
    monkeypatch.setitem(candidates.CANDIDATES, "seen", seen)
    case = Case(Shape.parse("64@16"), 2, "nchw", "forward", "float16", "cuda")
    calls, _ = measure.checked_calls(case, ["seen"], checked=False)
    for _ in range(40):
        calls["seen"]()
    moved = 2 * (2 * 2 * 64 * 16 * 16) + 2 * 64 * 64 * 9
    assert len(set(sets)) == -(-3 * 2**20 // moved)
    assert sets[: len(set(sets))] == sets[len(set(sets)) : 2 * len(set(sets))]


def test_a_disturbed_case_is_told():
    (line,) = summarise([ratio(1.0, 1), ratio(1.0, 8, undisturbed=False)])
    assert "1 DISTURBED" in str(line)


def ratio(value, batch, base="static", shape="64@56", undisturbed=True, **case):
    case = Case(**{"shape": Shape.parse(shape), "batch": batch, "layout": "nchw", "mode": "forward", **case})
    return Ratio(case, "op", base, Spread(value, value, value), undisturbed)


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


def test_on_a_gpu_batches_and_dtypes_are_summed_up_apart():
    of = {"layout": "channels_last", "device": "cuda"}
    lines = summarise(ratio(1.05, batch, dtype=dtype, **of) for batch in (32, 128) for dtype in ("bfloat16", "tf32"))
    assert [line.family for line in lines] == ["3x3 b32 bfloat16", "3x3 b32 tf32", "3x3 b128 bfloat16", "3x3 b128 tf32"]
    assert [line.target for line in lines] == [None, None, (1.00, 1.10), None]


def test_entries_of_a_case_are_replaced_and_others_kept():
    rounds = Rounds({"static": [1.0, 2.0], "op": [2.0, 4.0]}, True)
    measured = measure.Measured(rounds, {}, host=rounds, peaks={"static": 3, "op": 4})
    old, other = (Case(Shape.parse("8@5"), batch, "nchw", "training", "tf32", "cuda") for batch in (1, 2))
    known = [entries.entry(case, name, measured) for case in (old, other) for name in rounds.seconds]
    assert [entries.case_of(entry) for entry in known] == [old, old, other, other]
    new = entries.entry(old, "op", measured)
    assert new["to_static"]["median"] == 2.0
    assert (new["host_seconds"]["median"], new["peak_bytes"]) == (3.0, 4)
    assert "to_composite" not in new
    assert new["rounds"] == 2
    assert entries.replaced(known, [new]) == [known[0], *known[2:], new]


@pytest.mark.parametrize("mode", squeeze_excite.MODES)
def test_squeeze_excite_is_checked_and_timed(mode, monkeypatch):
    monkeypatch.setattr(
        squeeze_excite, "alternate", lambda calls, *_, **__: Rounds({name: [2.0] for name in calls}, True)
    )

    def row_of(layer):
        return squeeze_excite.measure(layer, mode, "float32", "cpu", rounds=3)

    layer = squeeze_excite.Layer(Shape.parse("8@5"), 3, "float32", "cpu")
    row = row_of(layer)
    assert set(row["seconds"]) == {"eager", "module"}
    assert row["to_eager"]["module"]["median"] == 1.0
    assert set(row["left_out"]) == ({"triton", "cuda"} if mode != "training" else set())
    right = layer.module.forward
    monkeypatch.setattr(type(layer.module), "forward", lambda self, x: 1.01 * right(x))
    with pytest.raises(AssertionError, match=f"module, {mode}: off by"):
        row_of(layer)


def test_report_is_written_from_the_saved_figures(tmp_path, monkeypatch, capsys):
    saved = {"median": 1.2, "low": 1.1, "high": 1.3, "rounds": 9}
    case = {"shape": "64@56", "batch": 8, "layout": "nchw", "mode": "forward", "undisturbed": True}
    saved_entries = [
        {**case, "candidate": name, "seconds": {**saved, "median": 0.004}, "to_static": saved, "to_composite": saved}
        for name in ("static", "op")
    ]
    on_a_gpu = {"batch": 1, "device": "cuda", "dtype": "bfloat16", "peak_bytes": 3 * 2**20}
    saved_entries += [
        {**entry, **on_a_gpu, "host_seconds": {**saved, "median": 2.5e-5}, "seconds": {**saved, "median": 5e-5}}
        for entry in saved_entries
    ]
    text = json.dumps({"machine_info": {"cpu": "a processor"}, "benchmarks": saved_entries})
    (tmp_path / "latency.json").write_text(text)
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    report.main()
    text = (tmp_path / "report.md").read_text()
    assert "cpu a processor" in text
    assert "| 64@56 b8 | 4.00 | 1.20 [1.10, 1.30] |" in text
    assert "## Forward, nchw, bfloat16: ratio" in text
    assert "| 64@56 b1 | 0.0500 | 1.20 [1.10, 1.30] |" in text
    assert "| 64@56 b1 nchw forward bfloat16 | 25.0 | 25.0 |" in text  # the host, us
    assert "| 64@56 b1 nchw forward bfloat16 | 3.0 | 3.0 |" in text  # memory, MiB
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "MISSED" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured on Linux only")
def test_peak_memory_of_a_call_is_seen(monkeypatch):
    case = Case(Shape.parse("8@5"), 2, "nchw", "forward")
    greedy = candidates.Candidate("takes 64 MiB", lambda o: torch.ones(16, 2**20))
    monkeypatch.setitem(candidates.CANDIDATES, "greedy", greedy)
    monkeypatch.setattr(measure, "prepare", lambda candidate, operands, mode: lambda: candidate.call(operands.call))
    assert 60 * 2**20 < measure.peak(case, "greedy") < 140 * 2**20
