"""kerneldna throughput and latency: what they count and tell, by a clock that says what it is told."""

import json
import sys

import pytest
import torch

from kerneldna_ops.commands import cli, speed, throughput
from kerneldna_ops.measure.memory import in_a_process
from kerneldna_ops.measure.time import Rounds
from kerneldna_ops.models import count_macs, count_parameters, create_model

MODEL, OTHER = "kerneldna_mobilenet_v2_050", "kerneldna_mobilenet_v2"
SMALL = ["--batch-size", "6", "--image-size", "32", "--warmups", "2", "--threads", "1"]


@pytest.fixture
def passes(monkeypatch):
    """The shapes of the forward passes that were timed, warm-ups included; they take 2, 4, 6, ... milliseconds."""
    done = []

    def stopwatch(call):
        done.append(tuple(call().shape))
        return 2e-3 * len(done), False

    monkeypatch.setattr(speed, "wall_sample", stopwatch)
    return done


@pytest.fixture
def memory(monkeypatch):
    """The settings whose peak memory was asked for."""
    asked = []

    def in_a_process(peak, *arguments):
        assert peak is speed.peak_on_cpu
        asked.append(arguments)
        return 12.5 * 2**20

    monkeypatch.setattr(speed, "in_a_process", in_a_process)
    return asked


def test_throughput(passes, memory, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    command = ["throughput", MODEL, *SMALL, "--iterations", "3", "--num-classes", "5", "--json", str(figures)]
    assert cli.main(command) == 0
    assert passes == [(6, 5)] * 5
    model = create_model(MODEL, num_classes=5)
    parameters, macs = count_parameters(model), count_macs(model, torch.zeros(1, 3, 32, 32))
    # Of 2, 4, 6, 8 and 10 ms the first two warmed up: 1000, 750 and 600 images a second.
    assert capsys.readouterr().out == (
        "Batches of 6, 3x32x32, float32 on cpu, 1 threads; 2 warm-ups, 3 iterations\n"
        f"{MODEL}: {parameters:,} parameters, {macs / 1e9:.4g} GMAC an image, peak memory of a pass 12.5 MiB\n"
        "  783.3 ± 202.1 images/s\n"
    )
    found = json.loads(figures.read_text())
    assert found["setting"]["warmups"] == 2
    assert found["networks"][MODEL] == {
        "parameters": parameters,
        "macs": macs,
        "peak_memory_mib": 12.5,
        "images_per_second": {"mean": pytest.approx(783.33, abs=0.01), "deviation": pytest.approx(202.07, abs=0.01)},
        "milliseconds": {"mean": 8, "deviation": 2, "low": 7, "median": 8, "high": 9},
    }
    assert found["ratio"] is None
    assert {"versions", "commit", "driver", "devices"} <= set(found["environment"])


def test_latency_beside_another_network_without_a_bar(passes, memory, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    figures = tmp_path / "figures.json"
    command = ["latency", MODEL, "--against", OTHER, *SMALL, "--iterations", "2", "--json", str(figures)]
    assert cli.main(command) == 0
    # Turns in both orders: warm-ups 2 to 8 ms; MODEL 10, OTHER 12; OTHER 14, MODEL 16.
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "  13.000 ± 4.243 ms a batch, median 13.000 (quartiles 11.500 to 14.500)"
    assert lines[5] == f"{MODEL} takes 0.988 times as long as {OTHER} (quartiles 0.911 to 1.065)"
    found = json.loads(figures.read_text())
    assert list(found["networks"]) == [MODEL, OTHER]
    assert found["ratio"]["median"] == pytest.approx((10 / 12 + 16 / 14) / 2)
    assert [(network["name"], setting.batch_size) for network, setting in memory] == [(MODEL, 6), (OTHER, 6)]


def test_memory_is_of_a_pass_in_a_process_of_its_own():
    # The largest activation: 48 channels of a quarter of the pixels, beside the 48 that it is made from.
    for batch_size, image_size in ((64, 32), (1, 256)):
        setting = speed.Setting(batch_size=batch_size, image_size=image_size)
        largest = batch_size * 48 * image_size**2 / 4 * 4
        peak = in_a_process(speed.peak_on_cpu, {"name": MODEL, "num_classes": 5}, setting)
        assert 2 * largest < peak < 10 * largest


def test_how_the_network_runs(monkeypatch):
    setting = speed.Setting(2, 32, 1, amp="bfloat16", channels_last=True, compile=True)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    model = setting.build({"name": MODEL, "in_channels": 1})
    scores = setting.call(model)(setting.images(2))
    assert not model.training
    assert compiled == [model]
    assert scores.dtype == torch.bfloat16
    assert scores.is_inference()
    assert setting.images(2).shape == (2, 1, 32, 32)
    rgb = speed.Setting(2, 32, channels_last=True)
    assert rgb.images(2).is_contiguous(memory_format=torch.channels_last)
    weights = [parameter for parameter in rgb.build({"name": MODEL}).parameters() if parameter.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_options_reach_the_networks(monkeypatch):
    asked = []

    def measure(networks, setting, warmups, iterations, on_round):
        asked.append((networks, setting, warmups, iterations))
        rounds = Rounds({name: [1.0, 1.0] for name in networks}, True)
        return {name: speed.Speed(1, 1, None, 1, rounds.seconds[name]) for name in networks}, rounds

    monkeypatch.setattr(throughput, "measure", measure)
    assert cli.main(["throughput", MODEL, "--device", "cpu", "--threads", "1"]) == 0
    options = ["--dynamic", "--in-channels", "1", "--amp", "float16", "--channels-last", "--compile"]
    cli.main(["latency", MODEL, "--against", OTHER, *options])
    (networks, setting, *counts), (two, other_setting, *_) = asked
    assert networks == {MODEL: {"name": MODEL, "num_classes": 1000}}
    assert setting == speed.Setting(128, 224, 3, "cpu", None, False, False, 1)
    assert counts == [50, 1000]  # the authors' protocol
    assert two == {
        MODEL: {"name": MODEL, "num_classes": 1000, "in_channels": 1, "dynamic": True},
        OTHER: {"name": OTHER, "num_classes": 1000, "in_channels": 1},
    }
    assert (other_setting.amp, other_setting.channels_last, other_setting.compile) == ("float16", True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([MODEL, "--against", MODEL], f"--against must be another model than {MODEL}"),
        ([MODEL, "--device", "gpu"], "--device must be cpu or one of the {} CUDA devices there are, got 'gpu'"),
        ([MODEL, "--device", "cuda:99"], "--device must be cpu or one of the {} CUDA devices there are, got 'cuda:99'"),
        (["resnet"], "create_model: name must be one of "),
    ],
)
def test_what_is_refused(arguments, message, capsys):
    assert cli.main(["throughput", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("kerneldna throughput: " + message.format(torch.cuda.device_count()))
