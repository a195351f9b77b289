"""What a checkpoint must hold: whatever is damaged, missing, mistyped or of another training is one sentence."""

import os
import random
import re

import pytest
import torch
from test_training_resume import assert_same, train

from kerneldna_ops.training import checkpoint
from kerneldna_ops.training.checkpoint import TrainingError
from kerneldna_ops.training.trainer import Trainer
from support import tiny

OTHER = "no checkpoint that this version of kerneldna train wrote: its"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the folder of a training."""
    for name in ("last.pt", "best.pt", "steps.csv", "epochs.csv"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    return tmp_path


def refusal(folder, **arguments):
    """The sentence of a training that does not go on in `folder`, where nothing changes."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(TrainingError) as raised:
        train(folder, **arguments)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    sentence = str(raised.value)
    assert sentence.startswith(f"{folder / 'last.pt'}: ")
    assert "\n" not in sentence
    return sentence.removeprefix(f"{folder / 'last.pt'}: ")


@pytest.mark.parametrize("part", ["data.pkl", "data/", "middle"])
def test_flipped_bytes_are_one_sentence(folder, part):
    """Wherever they are: among the names and numbers, in a tensor, in the middle."""
    for path in (folder / "last.pt", folder / "best.pt"):
        content = bytearray(path.read_bytes())
        start = len(content) // 2 if part == "middle" else content.index(part.encode()) + 100
        content[start : start + 64] = bytes(255 - byte for byte in content[start : start + 64])
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=f"^{re.escape(str(path))}: damaged, or no checkpoint"):
            checkpoint.load(path)
    assert refusal(folder).startswith("damaged, or no checkpoint")


def test_a_flipped_byte_is_never_taken(folder):
    """Of a random one either nothing depends, between the parts of the file, or it is noticed."""
    path = folder / "best.pt"
    whole = path.read_bytes()
    expected = checkpoint.load(path)
    source = random.Random(0)
    noticed = 0
    for _ in range(40):
        content = bytearray(whole)
        content[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        path.write_bytes(content)
        try:
            found = checkpoint.load(path)
        except TrainingError:
            noticed += 1
        else:
            assert_same(found, expected)
    assert noticed > 10


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "last.pt")
    with pytest.raises(TrainingError, match=r"last\.pt: could not be read \(not a regular file\)"):
        checkpoint.load(tmp_path / "last.pt")


def rewritten(folder, change):
    content = checkpoint.load(folder / "last.pt")
    change(content)
    checkpoint.save(folder / "last.pt", content)


ENTRIES = [
    *("network", "data", "model", "recipe", "computation", "seed", "epoch", "step", "loss_sum", "seconds"),
    *("accuracy", "best_accuracy", "average", "scaler"),
]


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_is_missing_or_mistyped_is_one_sentence(folder, name):
    rewritten(folder, lambda content: content.update({name: "text"}))
    assert refusal(folder).startswith(f"{OTHER} {name} is of type str, not ")
    content = torch.load(folder / "last.pt", weights_only=True)
    del content[name]
    torch.save(content, folder / "last.pt")
    assert refusal(folder) == f"{OTHER} {name} is missing"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["network"].pop("name"), f"{OTHER} network.name is missing"),
        (lambda c: c["data"].update(classes=3), f"{OTHER} data.classes is of type int, not list"),
        (lambda c: c["model"].update({"bn.bias": 3}), f"{OTHER} model.bn.bias is of type int, not Tensor"),
        (lambda c: c.update(average=None), f"{OTHER} average is of type NoneType, not dict"),
        (lambda c: c["average"].pop("updates"), f"{OTHER} average.updates is missing"),
        (lambda c: c["average"]["model"].pop("bn.bias"), "holds another network, whose bn.bias is missing and not [4]"),
        (lambda c: c["optimizer"].pop("state"), f"{OTHER} optimizer.state is missing"),
        (lambda c: c["optimizer"]["state"].update({0: {}}), "holds an optimizer of other parameters, by its momentum"),
        (lambda c: c["optimizer"]["state"].update({99: {"momentum_buffer": torch.zeros(3)}}), "holds an optimizer of"),
        (lambda c: c.update(epoch=True), f"{OTHER} epoch is of type bool, not int"),
        (lambda c: c.update(epoch=99), "expected at most 3 epochs and 0 steps of the next, got 99 and 0"),
        (lambda c: c.update(epoch=-1), "expected at most 3 epochs and 6 steps of the next, got -1 and 0"),
        (lambda c: c.update(epoch=1, step=7), "expected at most 3 epochs and 6 steps of the next, got 1 and 7"),
        (lambda c: c.update(accuracy=None), "expected an accuracy after 3 epochs, got none"),
    ],
)
def test_what_does_not_fit_is_one_sentence(folder, change, sentence):
    rewritten(folder, change)
    assert refusal(folder).startswith(sentence)


def test_the_scaler_of_float16_has_all_its_numbers(tmp_path):
    train(tmp_path, amp=torch.float16)
    rewritten(tmp_path, lambda content: content["scaler"].pop("scale"))
    assert refusal(tmp_path, amp=torch.float16) == f"{OTHER} scaler.scale is missing"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"amp": torch.bfloat16}, "holds a training whose computation has amp None, not bfloat16; name another folder"),
        (
            {"sync_batchnorm": True},
            "holds a training whose computation has sync_batchnorm False, not True; name another",
        ),
    ],
)
def test_another_computation_is_another_training(folder, arguments, sentence):
    assert refusal(folder, **arguments).startswith(sentence)


def test_the_numbers_of_the_recipe_count_and_not_the_files(folder):
    rewritten(folder, lambda content: content.update(epoch=1, step=2))
    rewritten(folder, lambda content: content["optimizer"].update(param_groups=[]))
    trainer = Trainer(tiny.network(), tiny.data(), tiny.RECIPE, folder, progress=False)
    trainer._begin_or_go_on()
    expected = Trainer(tiny.network(), tiny.data(), tiny.RECIPE, folder, progress=False).learner
    expected._reach(7)
    assert trainer.learner.optimizer.param_groups[0].items() >= {"momentum": 0.9, "lr": expected.learning_rate}.items()
