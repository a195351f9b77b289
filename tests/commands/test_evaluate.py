"""kerneldna evaluate: its figures, and what it refuses."""

import json
import socket

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.commands import cli, evaluate
from kerneldna_ops.models import create_model
from kerneldna_ops.training import checkpoint
from kerneldna_ops.training.accuracy import score
from kerneldna_ops.training.distributed import Processes
from support import tiny

NETWORK = {"name": "kerneldna_mobilenet_v2_050", "num_classes": tiny.CLASSES, "in_channels": 1}


@pytest.fixture(autouse=True)
def data(monkeypatch):
    """A function that sets what --data opens, at first tiny.data(); and the arguments that open_data had."""
    opened = []

    def set_data(data):
        def open_data(spec, image_size):
            opened.append((spec, image_size))
            return data

        monkeypatch.setattr(evaluate, "open_data", open_data)
        return opened

    set_data.opened = set_data(tiny.data(validation=7))
    return set_data


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model(**NETWORK)


@pytest.fixture
def saved(tmp_path, model):
    """A function that writes a checkpoint with some of its content replaced."""

    def save(**replaced):
        path = tmp_path / "best.pt"
        content = {"network": NETWORK, "data": tiny.data().describe(), "model": model.state_dict()}
        checkpoint.save(path, {**content, **replaced})
        return path

    return save


def refusal(capsys, *arguments):
    assert cli.main(["evaluate", *map(str, arguments), "--data", "DATA"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("kerneldna evaluate: ").strip()


class Answers(nn.Module):
    """Scores that put first, for image number k, the class answers[k], then the classes in their order."""

    def __init__(self, answers, classes):
        super().__init__()
        self.answers, self.classes = torch.tensor(answers), classes

    def forward(self, images):
        first = F.one_hot(self.answers[images[:, 0, 0, 0].long()], self.classes)
        return 100.0 * first - torch.arange(float(self.classes))


class Numbered:
    """Images [1, 1, 1] of their own number."""

    def __init__(self, labels):
        self.labels = torch.tensor(labels)

    def __len__(self):
        return len(self.labels)

    def load(self, indices, augmentation=None):
        return indices.float()[:, None, None, None], self.labels[indices]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_shares_that_are_right(batch_size):
    labels = [0, 0, 0, 2, 6, 6, 5]
    answers = [0, 0, 1, 2, 6, 0, 1]  # after the first come classes 0, 1, 2, ... so 5 and 6 are not among the first five
    scores = score(Answers(answers, 7), Numbered(labels), batch_size)
    assert scores.top1 == pytest.approx(100 * 4 / 7)
    assert scores.top5 == pytest.approx(100 * 5 / 7)
    assert scores.per_class == pytest.approx((100 * 2 / 3, None, 100, None, None, 0, 50))
    assert scores.loss == pytest.approx((99 + 106 + 104) / 7)  # of the wrong answers; e^-100 of the right ones


@pytest.mark.parametrize(
    ("rank", "batch_size", "asked", "top1", "per_class"),
    [(1, 1, [[1], [3], [0]], 20, (100, 0)), (5, 8, [[0]], 0, (None, None))],
)
def test_a_process_without_an_image_takes_one_that_does_not_count(
    monkeypatch, rank, batch_size, asked, top1, per_class
):
    """As FSDP wants as many passes of every process, and no network or reader of images must take no images."""
    found = []

    class Noted(Numbered):
        def load(self, indices, augmentation=None):
            found.append(indices.tolist())
            return super().load(indices)

    monkeypatch.setattr(Processes, "sum", lambda self, value: value)
    processes = Processes(rank, rank + 1)
    scores = score(Answers([0] * 5, 2), Noted([0, 1, 0, 0, 0]), batch_size, processes=processes)
    assert found == asked
    assert (scores.top1, scores.per_class) == (top1, per_class)


def test_a_checkpoint_is_measured_again(saved, model, data, tmp_path, capsys):
    path, figures = saved(), tmp_path / "figures.json"
    assert cli.main(["evaluate", str(path), "--data", "DATA", "--batch-size", "3", "--json", str(figures)]) == 0
    assert data.opened == [("DATA", 8)]  # the images are as large as in training

    images, labels = tiny.data(validation=7).validation.load(torch.arange(7))
    with torch.no_grad():
        scores = model.eval()(images)
    loss, right = F.cross_entropy(scores, labels).item(), scores.argmax(1) == labels
    found = json.loads(figures.read_text())
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["top1"] == pytest.approx(100 * right.float().mean().item())
    assert found["top5"] == 100
    names = tiny.data().class_names
    assert found["per_class"] == {
        name: pytest.approx(100 * right[labels == number].float().mean().item()) for number, name in enumerate(names)
    }
    assert found["environment"]["versions"]["torch"] == torch.__version__
    assert f"{path} on 7 validation images of DATA: top-1 {found['top1']:.2f} %" in capsys.readouterr().out


def test_a_model_with_weights(model, data, tmp_path, capsys):
    torch.save(model.state_dict(), tmp_path / "weights")
    command = ["evaluate", NETWORK["name"], "--data", "DATA", "--weights", str(tmp_path / "weights")]
    assert cli.main([*command, "--image-size", "9", "--amp", "bfloat16", "--channels-last"]) == 0
    assert data.opened == [("DATA", 9)]
    assert "kerneldna_mobilenet_v2_050 on 7 validation images" in capsys.readouterr().out


def test_files_that_are_no_checkpoint(tmp_path, saved, capsys):
    missing = tmp_path / "missing.pt"
    assert refusal(capsys, missing) == f"{missing}: could not be read (No such file or directory)"

    path = saved()
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(capsys, path).startswith(f"{path}: damaged, or no checkpoint")

    torch.save({"state_dict": {}}, path)
    assert refusal(capsys, path) == f"{path}: no checkpoint of kerneldna train"


def test_a_network_that_cannot_be_built_again(saved, capsys):
    path = saved(network={"name": "Network"})
    assert refusal(capsys, path).startswith(f"{path}: its network, Network, cannot be built again: create_model: name")
    path = saved(model=create_model(**NETWORK | {"num_classes": 5}).state_dict())
    error = refusal(capsys, path)
    assert error.startswith(f"{path}: its network, kerneldna_mobilenet_v2_050, cannot be built again: ")
    assert "classifier" in error


@pytest.fixture
def no_network(monkeypatch):
    """The hosts that were asked for."""
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("timm/resnet18", "pretrained", True),
        ("timm/resnet18", "pretrained_cfg", {"url": "https://example.com/weights"}),
        ("timm/resnet18", "pretrained_cfg_overlay", {"url": "https://example.com/weights"}),
        ("timm/resnet18", "checkpoint_path", "secret"),
        ("torchvision/resnet18", "pretrained", True),
        ("torchvision/resnet18", "weights_backbone", "DEFAULT"),
        ("kerneldna_resnet18", "weights", "secret"),
    ],
)
def test_a_file_makes_nothing_be_fetched(saved, capsys, no_network, name, argument, value):
    path = saved(network={"name": name, "num_classes": 3, argument: value})
    assert refusal(capsys, path) == f"{path}: its network has {argument!r}, which is not taken from a file"
    assert no_network == []


@pytest.mark.parametrize("name", ["timm/hf-hub:timm/resnet18.a1_in1k", "hf-hub:timm/resnet18", "timm/local-dir:."])
def test_a_name_makes_nothing_be_fetched(saved, capsys, no_network, name):
    pytest.importorskip("timm", exc_type=ImportError)
    path = saved(network={"name": name, "num_classes": 3})
    assert refusal(capsys, path).startswith(f"{path}: its network, {name}, cannot be built again: create_model: ")
    assert no_network == []


def test_a_folder_or_a_file_called_like_the_network(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(model.state_dict(), "weights")
    command = ["evaluate", NETWORK["name"], "--data", "DATA", "--weights", "weights"]
    (tmp_path / NETWORK["name"]).mkdir()
    assert cli.main(command) == 0
    (tmp_path / NETWORK["name"]).rmdir()
    (tmp_path / NETWORK["name"]).touch()
    assert cli.main(command) == 0
    assert capsys.readouterr().err == ""


def test_data_of_another_kind(saved, data, capsys):
    path = saved()
    data(tiny.data(classes=4))
    assert refusal(capsys, path) == f"{path}: a network for 3 classes, DATA has 4"
    path = saved(data=tiny.data().describe() | {"channels": 3})
    data(tiny.data())
    assert refusal(capsys, path) == f"{path}: a network for images of 3 channels, DATA has 1"


def test_weights_are_of_a_model_and_a_model_needs_weights(saved, tmp_path, capsys):
    path = saved()
    expected = f"goes with the name of a model, and {path} is a checkpoint, which has its own"
    assert refusal(capsys, path, "--weights", "x") == f"--weights {expected}"
    assert refusal(capsys, path, "--dynamic") == f"--dynamic {expected}"
    error = "kerneldna_resnet18: expected a checkpoint that exists, or a model and its --weights"
    assert refusal(capsys, "kerneldna_resnet18") == error
    assert refusal(capsys, "resnet", "--weights", path).startswith("create_model: name must be one of ")
    error = "kerneldna_mobilenet_v2: features.0.0.weight has shape [16, 1, 3, 3]"
    assert refusal(capsys, "kerneldna_mobilenet_v2", "--weights", path).startswith(f"{path}: {error}")
