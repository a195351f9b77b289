"""`kerneldna train` as it is typed."""

import re

import pytest
import torch

from kerneldna_ops.commands import train
from kerneldna_ops.commands.cli import main
from kerneldna_ops.training import checkpoint
from kerneldna_ops.training.recipes import RECIPES
from support import tiny


@pytest.fixture
def built(monkeypatch):
    """The arguments of create_model, for which a tiny network stands in."""
    built = []

    def create_model(**arguments):
        built.append(arguments)
        return tiny.Network(arguments["num_classes"])

    monkeypatch.setattr(train, "create_model", create_model)
    monkeypatch.setattr(train, "open_data", lambda spec, image_size: tiny.data())
    return built


def kerneldna_train(folder, *options, model="net"):
    return main(["train", model, "--data", "images", "--recipe", "digits", "--output", str(folder), *options])


SMALL = ("--epochs", "2", "--batch-size", "8", "--device", "cpu")


def test_trains_goes_on_and_says_so(tmp_path, built, capsys):
    assert kerneldna_train(tmp_path, *SMALL, "--seed", "3") == 0
    output = capsys.readouterr().out
    assert "net: 94 parameters, on cpu\n" in output
    assert "41 images to train on, 20 for validation, 3 classes, 1x8x8\n" in output
    assert "digits: 2 epochs, batches of 8, learning rate up to 0.02, weight decay 0.0005\n" in output
    assert re.search(r"\nepoch 2/2: loss \d\.\d{4}, validation accuracy \d+\.\d\d %\n", output)
    finished = re.search(r"Finished 2 epochs in \d+ s: validation accuracy (\S+) %, at best (\S+) %", output)
    assert f"To measure it again: kerneldna evaluate {tmp_path}/best.pt --data images\n" in output
    content = checkpoint.load(tmp_path / "best.pt")
    assert f"{content['accuracy']:.2f}" == finished[2]
    assert content["network"] == {"name": "net", "num_classes": 3, "in_channels": 1}
    assert content["seed"] == 3
    assert built == [{**content["network"], "weights": None}]

    assert kerneldna_train(tmp_path, *SMALL, "--seed", "3") == 0
    output = capsys.readouterr().out
    assert f"{tmp_path}/last.pt is of the last epoch: nothing is left to do.\n" in output
    assert f"Finished 2 epochs in {finished[0].split()[4]} s: validation accuracy {finished[1]} %" in output


def test_every_option_reaches_the_training(tmp_path, built):
    options = "--learning-rate 0.3 --weight-decay 0.1 --label-smoothing 0.2 --ema-decay 0.5 --warmup-epochs 1.5"
    options += " --amp bfloat16 --channels-last --workers 1 --dynamic --weights start.pt --save-every 0"
    assert kerneldna_train(tmp_path, *SMALL, *options.split()) == 0
    recipe = checkpoint.load(tmp_path / "last.pt")["recipe"]
    expected = {"learning_rate": 0.3, "weight_decay": 0.1, "label_smoothing": 0.2, "ema_decay": 0.5}
    expected |= {"warmup_epochs": 1.5, "epochs": 2, "batch_size": 8, "flip": RECIPES["digits"].flip, "nesterov": True}
    assert expected.items() <= recipe.items()
    assert str(built[0]["weights"]) == "start.pt"
    assert built[0]["dynamic"] is True


def test_the_initial_weights_are_the_seeds(tmp_path, built, monkeypatch):
    first_weights = []
    monkeypatch.setattr(train, "Trainer", lambda model, *_, **__: first_weights.append(model.own.weight) or exit())
    for seed in ("1", "1", "2"):
        with pytest.raises(SystemExit):
            kerneldna_train(tmp_path, "--seed", seed)
    assert torch.equal(first_weights[0], first_weights[1])
    assert not torch.equal(first_weights[0], first_weights[2])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--epochs", "0"), "kerneldna train: epochs: expected a whole number from 1 to 1000000, got 0\n"),
        (("--batch-size", "64"), "kerneldna train: batch_size: expected at most 41, the number of training images,"),
        (("--device", "tpu"), "kerneldna train: device: expected cpu or cuda, got 'tpu'\n"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, built, options, sentence, capsys):
    assert kerneldna_train(tmp_path, *options) == 1
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_networks_have_nothing_dynamic(tmp_path, built, capsys):
    assert kerneldna_train(tmp_path, "--dynamic", model="timm/net") == 1
    sentence = "kerneldna train: --dynamic: expected a network with shared kernels, got timm/net\n"
    assert capsys.readouterr().err == sentence


def test_another_training_in_the_folder_is_one_line(tmp_path, built, capsys):
    assert kerneldna_train(tmp_path, *SMALL) == 0
    capsys.readouterr()
    assert kerneldna_train(tmp_path, *SMALL, "--learning-rate", "1") == 1
    error = capsys.readouterr().err
    assert error.endswith("holds a training whose recipe has learning_rate 0.02, not 1.0; name another folder\n")


def test_ctrl_c_has_its_own_status(tmp_path, built, monkeypatch, capsys):
    at_once = f"Stopped; {tmp_path} keeps what was saved before."
    for message, line in (("Stopped after epoch 1.", "Stopped after epoch 1."), ("", at_once)):

        def stop(trainer, message=message):
            raise KeyboardInterrupt(message)

        monkeypatch.setattr(train.Trainer, "run", stop)
        assert kerneldna_train(tmp_path, *SMALL) == 130
        assert capsys.readouterr().err == f"{line}\n"


def test_a_real_network_on_real_digits(tmp_path):
    """The smallest of them, on digits of 8 pixels, for an epoch."""
    pytest.importorskip("sklearn")
    name, data = "kerneldna_mobilenet_v2", "digits"
    options = ["--recipe", "digits", "--epochs", "1", "--image-size", "8", "--batch-size", "256", "--device", "cpu"]
    assert main(["train", name, "--data", data, "--output", str(tmp_path), *options]) == 0
    content = checkpoint.load(tmp_path / "best.pt")
    assert content["network"] == {"name": name, "num_classes": 10, "in_channels": 1}
    assert content["data"]["image_size"] == 8
