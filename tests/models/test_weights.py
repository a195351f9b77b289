"""Weights from files: what is understood, and what is refused in one sentence with the network left as it was."""

import argparse
import copy
import os
import re
import zipfile

import pytest
import torch
from torch import nn

from kerneldna_ops.models import create_model, kerneldna_resnet18, load_weights
from support.published_resnet import resnet18

pytestmark = pytest.mark.usefixtures("threads")

EXPECTED = r"expected tensors and plain values that torch\.save wrote"


@pytest.fixture(scope="module")
def source():
    return kerneldna_resnet18(num_classes=3)


@pytest.fixture(scope="module")
def target():
    return kerneldna_resnet18(num_classes=3)


@pytest.fixture
def file(tmp_path):
    """A function that saves something and returns where."""

    def save(content):
        torch.save(content, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


def same(model, other):
    states = model.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        states[1][name].equal(value) for name, value in states[0].items()
    )


def with_prefix(prefix):
    return lambda state: {"state_dict": {prefix + name: value for name, value in state.items()}}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}}},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model": {"state_dict": state}},
        with_prefix("module."),
        with_prefix("module._orig_mod."),
    ],
    ids=["state_dict", "checkpoint", "torchvision", "twice", "DataParallel", "compiled"],
)
def test_checkpoints_of_many_makes(source, file, wrapped):
    model = kerneldna_resnet18(num_classes=3, weights=file(wrapped(source.state_dict())))
    assert same(model, source)


def test_the_authors_file_through_create_model(file):
    theirs = resnet18(3)
    model = create_model("kerneldna_resnet18", num_classes=3, weights=str(file({"state_dict": theirs.state_dict()})))
    assert model.layer4[2].conv2.weight.equal(theirs.layer4.conv3.weight)


def test_any_network_loads_a_file(file):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(target, file(source.state_dict()))
    assert same(target, source)
    with pytest.raises(ValueError, match=r"Linear: weight has shape \[2, 4\] in the state_dict and \[2, 3\]"):
        load_weights(target, file(nn.Linear(4, 2).state_dict()))


def a_text(path):
    path.write_text("These are not weights.")


def nothing(path):
    path.write_bytes(b"")


def half_a_file(path):
    torch.save(kerneldna_resnet18(num_classes=3).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def half_a_small_file(path):
    """Of which torch.load says that an argument of the operating system's is invalid."""
    torch.save({"weight": torch.zeros(3)}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_wrong_bit(path):
    torch.save(kerneldna_resnet18(num_classes=3).state_dict(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def another_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")


@pytest.mark.parametrize("damage", [a_text, nothing, half_a_file, half_a_small_file, one_wrong_bit, another_zip])
def test_what_is_no_file_of_weights(target, tmp_path, damage):
    path = tmp_path / "weights.pth"
    damage(path)
    before = copy.deepcopy(target)
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))}: {EXPECTED}, but it is damaged, or something else$"
    ):
        load_weights(target, path)
    assert same(target, before)


def test_a_pipe_is_not_waited_for(target, tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(OSError, match="not a regular file: "):
        load_weights(target, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (nn.Linear(2, 2), rf"{EXPECTED}, but it holds a torch\.nn\.modules\.linear\.Linear"),
        ([1, 2], "expected a state_dict, or one under 'state_dict' or 'model', got list"),
        (
            {"epoch": 1, "loss": 0.5},
            "expected a state_dict, or one under 'state_dict' or 'model', got the entries 'epoch', 'loss'",
        ),
        ({}, "expected a state_dict, or one under 'state_dict' or 'model', got no entries"),
        (
            {"fc.bias": torch.zeros(3)},
            r"kerneldna_resnet18: the state_dict is incomplete or of another network: \d+ entries are missing"
            r" \(the first is conv1\.weight\)",
        ),
    ],
    ids=["module", "list", "no state_dict", "nothing", "incomplete"],
)
def test_other_contents(target, file, content, sentence):
    path = file(content)
    before = copy.deepcopy(target)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {sentence}$"):
        load_weights(target, path)
    assert same(target, before)


def test_other_number_of_classes(source, file):
    path = file(source.state_dict())
    with pytest.raises(
        ValueError, match=r"fc\.weight has shape \[3, 512\] .* \[5, 512\] .* build it with num_classes=3$"
    ):
        kerneldna_resnet18(num_classes=5, weights=path)


def test_no_such_file(target, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_weights(target, tmp_path / "nowhere.pth")
    with pytest.raises(IsADirectoryError):
        load_weights(target, tmp_path)
