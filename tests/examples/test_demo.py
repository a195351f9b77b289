"""examples/demo: a small run from end to end and once more, Ctrl-C, what is loaded back, what it refuses."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from examples.demo import __main__ as demo
from examples.demo import experiment
from examples.demo.network import VARIANTS, build
from kerneldna_ops._extras import how_to_install
from kerneldna_ops.measure.memory import in_a_process
from kerneldna_ops.measure.networks import count_macs, count_parameters
from kerneldna_ops.nn import Adapter
from kerneldna_ops.training import learner, logs
from kerneldna_ops.training.sources import open_data
from support.commands import ROOT

SHARED = ("kerneldna", "kerneldna-dynamic")


@pytest.fixture(scope="module", autouse=True)
def small(one_thread):
    """64 images in two batches, without TensorBoard and with memory that takes no process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_tensorboard", lambda folder, first_step: None)
        patch.setattr(demo, "open_data", lambda spec: few(open_data(spec)))
        patch.setattr(experiment, "in_a_process", lambda peak, variant: 2**20)
        patch.setattr(experiment, "ROUNDS", 1)
        patch.setattr(experiment, "BATCH_SIZE", 4)
        yield patch


def few(data, count=64):
    for part in (data.train, data.validation):
        part.images, part.labels = part.images[:count], part.labels[:count]
    return data


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small):
    output = tmp_path_factory.mktemp("demo")
    demo.run(output, seeds=2, epochs=1)
    return output


def test_table_and_figures_agree(finished):
    content = json.loads((finished / "results.json").read_text())
    assert [row["variant"] for row in content["variants"]] == list(VARIANTS)
    lines = (finished / "table.md").read_text().splitlines()[2:5]
    for row, line in zip(content["variants"], lines, strict=True):
        cost = row["cost"]
        assert len(row["accuracies"]) == 2
        assert cost["parameters"] == count_parameters(build(row["variant"]))
        for name in ("forward_seconds", "training_seconds", "forward_ratio", "training_ratio"):
            assert 0 < cost[name]["low"] <= cost[name]["median"] <= cost[name]["high"]
        accuracy = sum(row["accuracies"]) / 2
        assert line.startswith(f"| {row['variant']} | 2 | {accuracy:.2f} ± ")
        assert f"| {cost['parameters']:,} | {cost['macs'] / 1e6:.2f} |" in line
        assert line.endswith("| 1.0 |")
    assert content["variants"][0]["cost"]["forward_ratio"]["high"] == 1
    picture = pytest.importorskip("matplotlib.image").imread(finished / "results.png")
    assert picture.shape[0] > 400
    assert picture.std() > 0.01


def test_a_second_run_trains_nothing_again(finished, monkeypatch, capsys):
    before = json.loads((finished / "results.json").read_text())

    def no_step(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(learner.Learner, "step", no_step)
    demo.run(finished, seeds=2, epochs=1)
    after = json.loads((finished / "results.json").read_text())
    accuracies = [[row["accuracies"] for row in content["variants"]] for content in (before, after)]
    assert accuracies[0] == accuracies[1]
    assert f"{finished / 'kerneldna-1'}/last.pt: loaded again, {accuracies[0][1][1]:.2f} %" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_what_was_recorded_is_found_out(finished):
    data = few(open_data("digits"))
    experiment.load_back("static", finished / "static-0", data)
    data.validation.labels = (data.validation.labels + 1) % 10
    with pytest.raises(RuntimeError, match=r"static-0/last.pt: expected [\d.]+ %, got [\d.]+ %"):
        experiment.load_back("static", finished / "static-0", data)


def test_a_training_of_another_length_is_not_gone_on_with(finished):
    with pytest.raises(SystemExit, match="holds a training whose recipe has epochs 1, not 2; name another folder"):
        demo.main(["--output", str(finished), "--epochs", "2"])


INTERRUPTED = """
import signal, sys
from pathlib import Path
import torch
from examples.demo import __main__ as demo, experiment

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit a deaf one
torch.set_num_threads(1)
experiment.in_a_process = lambda *_: None
experiment.ROUNDS = 1
experiment.BATCH_SIZE = 4
sys.exit(demo.main(["--output", sys.argv[1], "--epochs", "1000"]))
"""


def test_a_real_ctrl_c_ends_with_a_table_and_a_clear_line(tmp_path):
    """Without a figure of memory, as on a system that has none to say."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", INTERRUPTED, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Stopped after epoch 1" in errors
    assert errors.rstrip().endswith(f"the same command goes on from {tmp_path / 'static-0' / 'last.pt'}.")
    assert "| static | 0 | n/a | 262,842 |" in output
    assert (tmp_path / "table.md").read_text().startswith("| network | seeds |")


def test_ctrl_c_before_there_is_anything_says_so(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "measure", interrupt)
    assert demo.main(["--output", str(tmp_path / "demo")]) == 130
    assert "Stopped by Ctrl-C" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("option", "value"), [("--seeds", "0"), ("--epochs", "1e9"), ("--epochs", "two")])
def test_a_wrong_option_is_one_sentence(option, value, capsys):
    with pytest.raises(SystemExit):
        demo.main([f"{option}={value}"])
    assert f"argument {option}: expected a whole number from 1 to 2147483647, got '{value}'" in capsys.readouterr().err


def test_an_empty_path_is_refused(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--output="])
    assert "argument --output: expected a path, got ''" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib", "tqdm"])
def test_a_missing_library_is_one_sentence(missing):
    code = f"import sys; sys.modules['{missing}'] = None; from examples.demo.__main__ import main; main([])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.startswith("The demo needs more packages (")
    assert result.stderr.endswith(f"): {how_to_install('demo')}\n")
    assert missing in result.stderr


@pytest.mark.parametrize("variant", SHARED)
def test_children_add_no_kernel(variant):
    static, model = build("static"), build(variant)
    own, shared = (sum(value.shape[2:] == (3, 3) for value in net.parameters()) for net in (static, model))
    assert (own, shared) == (15, 15 - 6)
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    saved = 3 * 9 * (32 * 32 + 64 * 64)
    assert count_parameters(model) == count_parameters(static) - saved + sum(map(count_parameters, adapters))


def test_macs_are_those_of_convolutions_and_of_adapters():
    stem = 9 * 16 * 32 * 32
    block = 2 * 9 * 16 * 16 * 32 * 32
    stages = sum(
        (9 * half * width + 5 * 9 * width * width + half * width) * side * side
        for half, width, side in ((16, 32, 16), (32, 64, 8))
    )
    image = torch.randn(1, 1, 32, 32)
    static, published, dynamic = (count_macs(build(variant), image) for variant in VARIANTS)
    assert static == stem + block + stages + 64 * 10
    # Three adapters a stage: fc1 and fc2; when all is dynamic also the heads of f and s.
    assert published - static == sum(3 * 2 * width * (width // 4) for width in (32, 64))
    assert dynamic - published == sum(3 * (width // 4) * (width + 9) for width in (32, 64))


def test_memory_is_that_of_gradients():
    kept = 15 * 64 * 8 * 8 * 4 * 64  # at least one activation per convolution, the smallest of them
    assert kept < in_a_process(experiment._peak, "static") < 100 * kept


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns_and_the_seed_decides_the_initial_weights(variant):
    model, again, other = build(variant, 7), build(variant, 7), build(variant, 8)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    model(torch.randn(4, 1, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
