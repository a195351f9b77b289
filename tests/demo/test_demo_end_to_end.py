import csv
import json
import signal
import subprocess
import sys
from dataclasses import fields
from statistics import mean, stdev

import pytest
from matplotlib.image import imread

from kerneldna_ops._extras import how_to_install
from kerneldna_ops._latency import Spread
from kerneldna_ops.demo import experiment
from kerneldna_ops.demo.__main__ import main
from kerneldna_ops.demo.checkpoint import Run
from kerneldna_ops.demo.measure import Cost
from kerneldna_ops.demo.model import VARIANTS, build
from kerneldna_ops.demo.plots import plot_accuracy, plot_latency
from kerneldna_ops.demo.report import Row, make_row, to_markdown
from kerneldna_ops.models.counting import count_parameters

FILES = {"table.md", "results.json", "results.csv", "accuracy.png", "latency.png", "checkpoints"}


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def as_text(value):
    return "" if value is None else str(value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, few_digits):
    output = tmp_path_factory.mktemp("demo")
    experiment.run(few_digits, output, seeds=2, epochs=1, rounds=2)
    return output


def test_all_files_are_there(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {f"{name}.pt" for name in VARIANTS}


def test_table_json_and_csv_agree(finished):
    content = json.loads((finished / "results.json").read_text())
    variants = content["variants"]
    assert [variant["variant"] for variant in variants] == list(VARIANTS)
    assert read_csv(finished / "results.csv") == [
        {name: as_text(value) for name, value in variant.items()} for variant in variants
    ]
    rows = [Row(**variant) for variant in variants]
    assert (finished / "table.md").read_text().startswith(to_markdown(rows) + "\n")


def test_figures_follow_from_the_runs_and_the_networks(finished):
    content = json.loads((finished / "results.json").read_text())
    for variant in content["variants"]:
        accuracies = [run["test_accuracy"] for run in content["runs"] if run["variant"] == variant["variant"]]
        assert variant["runs"] == len(accuracies) == 2
        assert variant["accuracy_percent"] == pytest.approx(mean(accuracies))
        assert variant["accuracy_deviation"] == pytest.approx(stdev(accuracies))
        assert variant["parameters"] == count_parameters(build(variant["variant"], 0))
        for name in ("forward_ms", "training_ms", "forward_ratio", "training_ratio"):
            assert 0 < variant[f"{name}_low"] <= variant[name] <= variant[f"{name}_high"]
    static = content["variants"][0]
    assert static["forward_ratio_low"] == static["training_ratio_high"] == 1


def test_the_pictures_are_pictures(finished):
    for name in ("accuracy.png", "latency.png"):
        picture = imread(finished / name)
        assert picture.shape[0] > 400
        assert picture.std() > 0.01


COST = Cost(1000, 2_500_000, *[Spread(1.0, 2.0, 3.0)] * 4, peak_memory=None)


def test_what_does_not_exist_is_left_open(tmp_path):
    none = make_row("static", COST, [])
    one = make_row("kerneldna", COST, [Run("kerneldna", 0, 1, 98.0, 97.5, 1.0), Run("static", 0, 1, 9.0, 9.0, 1.0)])
    assert (none.accuracy_percent, none.accuracy_deviation, one.accuracy_percent, one.accuracy_deviation) == (
        None,
        None,
        97.5,
        None,
    )
    lines = to_markdown([none, one]).splitlines()
    assert lines[2] == (
        "| static | 0 | n/a | 1,000 | 2.50"
        " | 2.0 (1.0 to 3.0) | 2.00 (1.00 to 3.00) | 2.0 (1.0 to 3.0) | 2.00 (1.00 to 3.00) | n/a |"
    )
    assert "| 97.50 |" in lines[3]
    plot_accuracy(tmp_path / "accuracy.png", [none, one])
    plot_latency(tmp_path / "latency.png", [none, one])
    assert len(list(tmp_path.iterdir())) == 2


def test_every_figure_of_a_row_is_in_the_csv_header(finished):
    assert list(read_csv(finished / "results.csv")[0]) == [field.name for field in fields(Row)]


INTERRUPTED_DEMO = """
import pathlib, signal, sys, torch
from kerneldna_ops.demo import experiment, memory, train
from kerneldna_ops.demo.data import Digits, Images, load_digits

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit a deaf one
torch.set_num_threads(1)
memory.STATUS = pathlib.Path("/nowhere")  # the memory runs take seconds and are not in question here
whole = load_digits()
few = Digits(*(Images(p.images[:64], p.labels[:64]) for p in (whole.train, whole.validation, whole.test)))
training_step = train.training_step

def announce(*arguments):
    print("training", flush=True)
    training_step(*arguments)

train.training_step = announce
experiment.run(few, pathlib.Path(sys.argv[1]), seeds=1, epochs=int(sys.argv[2]), rounds=2)
"""


def test_a_real_ctrl_c_ends_with_a_table_and_a_clear_line(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_DEMO, str(tmp_path), "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "training\n":
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "Stopped by Ctrl-C after 0 of 3 runs, whose figures these are." in output
    assert "Stopped by Ctrl-C" in (tmp_path / "table.md").read_text()
    assert [row["runs"] for row in read_csv(tmp_path / "results.csv")] == ["0"] * len(VARIANTS)
    assert {path.name for path in tmp_path.iterdir()} >= FILES - {"checkpoints"}


@pytest.mark.parametrize(("option", "value"), [("--seeds", "0"), ("--epochs", "-1"), ("--epochs", "two")])
def test_a_wrong_option_is_one_sentence(option, value, capsys):
    with pytest.raises(SystemExit):
        main([f"{option}={value}"])
    assert f"argument {option}: expected a whole number from 1 to 2147483647, got '{value}'" in capsys.readouterr().err


def test_a_missing_library_is_one_sentence():
    code = "import sys; sys.modules['sklearn'] = None; from kerneldna_ops.demo.__main__ import main; main([])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == f"The demo needs sklearn, which is not installed: {how_to_install('demo')}\n"


def test_ctrl_c_before_there_is_anything_says_so(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "measure", interrupt)
    assert main(["--output", str(tmp_path / "demo")]) == 130
    assert "not all results were written" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
