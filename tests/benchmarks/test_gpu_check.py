"""benchmarks/gpu_check.py without a GPU: a dry run of all of it, that its steps are understood, and how they end."""

import importlib
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import entries, gpu_check, options
from benchmarks.gpu_check import Step
from benchmarks.process import ROOT
from kerneldna_ops.backends import _tuned

# A machine with a card runs these tests too.
WITHOUT_A_CARD = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
REAL = {step.name: step for step in gpu_check.steps(ROOT)}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu_check")
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--dry-run", "--out", str(folder)]
    ran = subprocess.run(command, cwd=ROOT, env=WITHOUT_A_CARD, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return SimpleNamespace(output=ran.stdout, folder=folder, record=json.loads((folder / "record.json").read_text()))


def test_a_dry_run_goes_through_all_and_says_with_what(dry_run):
    record = dry_run.record
    assert {name: step["ended"] for name, step in record["steps"].items()} == dict.fromkeys(
        ("tests", "3x3-b32", "3x3-b128", "networks"), "ended"
    )
    assert record["not_run"] == []
    assert {"versions", "commit", "driver", "build", "devices", "backends"} <= set(record["environment"])
    assert "passed" in record["steps"]["tests"]["last_lines"][-1]
    assert record["summary"]
    text = (dry_run.folder / "record.txt").read_text()
    assert text.strip() in dry_run.output
    assert all(line in text for line in (*record["summary"], *record["winners"]))


def test_a_dry_run_leaves_the_figures_that_a_report_reads(dry_run):
    saved = json.loads((dry_run.folder / "latency.json").read_text())
    assert saved["machine_info"]["device"] == "stand-in"
    found = {(entry["mode"], entry["candidate"]): entry for entry in saved["benchmarks"]}
    rivals = ("static", "op", "composite")
    assert {candidate for mode, candidate in found if mode == "forward"} == {*rivals, "triton", "grouped"}
    assert {candidate for mode, candidate in found if mode == "training"} == set(rivals)
    for entry in found.values():
        assert {"seconds", "to_static", "to_composite", "host_seconds", "peak_bytes"} <= set(entry)
        assert entries.case_of(entry).name == f"8@3 b2 channels_last {entry['mode']} float16"
    report = (dry_run.folder / "report.md").read_text()
    assert "Forward, channels_last, float16: ratio to static" in report
    assert "kerneldna" in (dry_run.folder / "networks.md").read_text()


def test_the_proposed_winners_are_a_table_that_the_package_reads(dry_run):
    file = dry_run.folder / "tuned" / "interpreter.json"
    for function in _tuned.FUNCTIONS:
        (entry,) = _tuned._read(file, function).values()
        assert entry.backend in ("triton", "composite")
        assert {name.split()[0] for name in entry.milliseconds} == {"composite", "triton"}
    assert [line.split(",")[0] for line in dry_run.record["winners"]] == ["interpreter.json"] * 2


def test_the_most_important_is_measured_first():
    assert list(REAL)[:3] == ["tests", "3x3-b32", "3x3-b128"]
    first = options.cases(parsed("3x3-b32"))
    assert [case.name for case in first] == [
        f"{shape} b32 channels_last {mode} bfloat16"
        for mode in ("forward", "training")
        for shape in ("64@56", "128@28", "256@14", "512@7")
    ]


def parsed(name):
    """The arguments of a step, as the module that it runs takes them."""
    module = REAL[name].module + ".__main__" * (REAL[name].module == "benchmarks.networks")
    return importlib.import_module(module).parser().parse_args(REAL[name].arguments)


@pytest.mark.parametrize("name", [name for name, step in REAL.items() if step.module.startswith("benchmarks.")])
def test_every_benchmark_understands_its_arguments(name):
    taken = parsed(name)
    assert taken.device == "cuda"
    assert ROOT in (getattr(taken, "results", None), getattr(taken, "json", ROOT / "x").parent)
    if REAL[name].module == "benchmarks.latency":
        assert taken.tune
        assert list(options.cases(taken))
        assert options.names(taken)[0] == "static"


def test_the_tests_of_the_card_are_asked_for_as_pytest_takes_them():
    command = [sys.executable, "-m", "pytest", *REAL["tests"].arguments]
    ran = subprocess.run(command, cwd=ROOT, env=WITHOUT_A_CARD, capture_output=True, text=True, check=False)
    # That there is no card is the first thing that it says.
    assert "--device cuda cannot run here" in ran.stdout + ran.stderr


def test_a_step_that_takes_too_long_is_ended_and_what_it_said_is_kept(tmp_path):
    lines = "WRONG: op, off", "backend cuda was not tested on cuda: built without CUDA"
    code = f"import time; print(*{lines}, sep='\\n', flush=True); time.sleep(60)"
    start = time.monotonic()
    found = gpu_check.run(Step("slow", "timeit", ("-n1", "-r1", code)), tmp_path, 3.0, {})
    assert time.monotonic() - start < 30
    assert found["ended"] == "no time left"
    assert found["wrong"] == ["WRONG: op, off"]
    assert found["not_tested"] == ["backend cuda was not tested on cuda: built without CUDA"]
    assert found["not_tested"] == ["backend cuda was not tested on cuda: built without CUDA"]


def test_a_step_that_fails_is_told(tmp_path):
    found = gpu_check.run(Step("bad", "timeit", ("-n1", "-r1", "import os; os._exit(3)")), tmp_path, 30.0, {})
    assert found["ended"] == "exit status 3"


def test_variables_are_for_benchmarks_and_not_for_the_tests(tmp_path):
    variables = {"KERNELDNA_BACKEND": "no such backend"}
    test = tmp_path / "test_environment.py"
    test.write_text("import os\ndef test(): assert 'KERNELDNA_BACKEND' not in os.environ")
    ran = gpu_check.run(Step("tests", "pytest", (str(test), f"--rootdir={tmp_path}")), tmp_path, 60.0, variables)
    assert ran["ended"] == "ended", ran
    code = "import os; print(os.environ['KERNELDNA_BACKEND'])"
    ran = gpu_check.run(Step("code", "timeit", ("-n1", "-r1", code)), tmp_path, 30.0, variables)
    assert "no such backend" in ran["last_lines"]


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """Runs these steps as a dry run and returns its exit status and record."""

    def run(steps, *arguments):
        monkeypatch.setattr(gpu_check, "dry_steps", lambda out: steps)
        status = gpu_check.main(["--dry-run", "--out", str(tmp_path), *arguments])
        return status, json.loads((tmp_path / "record.json").read_text())

    return run


SAYS = ("-n1", "-r1", "-s", "print('WRONG: cuda, 64@56: output is off')", "pass")


@pytest.mark.parametrize(
    ("arguments", "status"), [(SAYS, 1), (("-n1", "-r1", "raise SystemExit(1)"), 1), (("-n1",), 0)]
)
def test_what_is_wrong_anywhere_fails_the_run_and_the_rest_is_run(run_of, arguments, status):
    found, record = run_of([Step("first", "timeit", arguments), Step("second", "timeit", ("-n1",))])
    assert found == status
    assert record["steps"]["second"]["ended"] == "ended"
    assert record["summary"] == ["nothing was measured"]


def test_a_run_in_parts_leaves_one_record(run_of):
    run_of([Step("first", "timeit", SAYS)])
    status, record = run_of([Step("second", "timeit", ("-n1",))])
    assert (status, list(record["steps"])) == (0, ["first", "second"])


def test_what_another_machine_left_is_not_in_the_record(run_of, monkeypatch):
    run_of([Step("first", "timeit", SAYS)])
    found = {**gpu_check.environment(), "driver": "another"}
    monkeypatch.setattr(gpu_check, "environment", lambda: found)
    _, record = run_of([Step("second", "timeit", ("-n1",))])
    assert list(record["steps"]) == ["second"]


def test_what_there_was_no_time_for_is_listed(run_of):
    status, record = run_of([Step("late", "timeit", ("-n1",))], "--minutes", "0.1")
    assert (status, record["steps"], record["not_run"]) == (0, {}, ["late"])


def test_without_a_card_one_sentence_says_so(capsys, monkeypatch):
    found = {"devices": {"cpu": "a processor"}}
    monkeypatch.setattr(gpu_check, "environment", lambda: found)
    with pytest.raises(SystemExit):
        gpu_check.main([])
    assert "PyTorch sees no CUDA device here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu_check.main(["--steps", "tests,magic"])
    assert "there is no step magic" in capsys.readouterr().err
