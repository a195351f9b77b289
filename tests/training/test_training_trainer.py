"""What a training writes, measures and refuses; that it goes on is in test_training_resume.py."""

import csv
import os
import signal
import sys
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_training_resume import Killed, train
from torch import nn

from kerneldna_ops.training import checkpoint, learner, logs, trainer
from kerneldna_ops.training.accuracy import Scores, score
from kerneldna_ops.training.checkpoint import TrainingError
from kerneldna_ops.training.distributed import Processes
from kerneldna_ops.training.interruption import Interruption
from kerneldna_ops.training.trainer import Trainer
from support import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return train(folder), folder


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_epoch_and_every_step_has_a_row(finished):
    result, folder = finished
    epochs, steps = (read_csv(folder / name) for name in ("epochs.csv", "steps.csv"))
    assert [(row["epoch"], row["step"]) for row in epochs] == [("1", "5"), ("2", "10"), ("3", "15")]
    assert [(int(row["step"]), int(row["epoch"])) for row in steps] == [(n, (n + 4) // 5) for n in range(1, 16)]
    for number, row in enumerate(epochs):
        losses = [float(step["loss"]) for step in steps[5 * number : 5 * number + 5]]
        assert float(row["loss"]) == pytest.approx(sum(losses) / 5)
    accuracies = [float(row["averaged_accuracy"]) for row in epochs]
    assert (result.last_accuracy, result.best_accuracy) == (accuracies[-1], max(accuracies))
    assert (result.epochs, result.checkpoint) == (3, folder / "best.pt")


def test_the_checkpoints_hold_the_weights_that_were_measured(finished):
    result, folder = finished
    data = tiny.data()
    for path, name, expected in (
        (result.checkpoint, "model", result.best_accuracy),
        (folder / "last.pt", "average", result.last_accuracy),
    ):
        content = checkpoint.load(path)
        model = tiny.network(seed=9)
        model.load_state_dict(content["average"]["model"] if name == "average" else content["model"])
        assert score(model, data.validation).top1 == expected == content["accuracy"]
        assert content["data"]["classes"] == ["0", "1", "2"]
        assert (content["network"], content["seed"]) == ({"name": "Network"}, 0)


def test_the_best_epoch_is_kept(tmp_path, monkeypatch):
    accuracies = iter([50.0, 80.0, 80.0, 60.0])
    known = Scores(0.0, 0.0, 0.0, ())
    monkeypatch.setattr(trainer, "score", lambda *_, **__: replace(known, top1=next(accuracies)))
    recipe = replace(tiny.RECIPE, epochs=4, ema_decay=None)
    result = Trainer(tiny.network(), tiny.data(), recipe, tmp_path, progress=False).run()
    assert (result.best_accuracy, result.last_accuracy) == (80, 60)
    best = checkpoint.load(result.checkpoint)
    assert (best["epoch"], best["accuracy"]) == (2, 80)


def test_with_averaged_weights_they_are_the_result(tmp_path, monkeypatch):
    accuracies = iter([90.0, 50.0, 10.0, 80.0])  # of the network and of its average, in turn
    known = Scores(0.0, 0.0, 0.0, ())
    monkeypatch.setattr(trainer, "score", lambda *_, **__: replace(known, top1=next(accuracies)))
    recipe = replace(tiny.RECIPE, epochs=2)
    result = Trainer(tiny.network(), tiny.data(), recipe, tmp_path, progress=False).run()
    assert (result.best_accuracy, result.last_accuracy) == (80, 80)
    best, last = checkpoint.load(result.checkpoint), checkpoint.load(tmp_path / "last.pt")
    assert torch.equal(best["model"]["own.weight"], last["average"]["model"]["own.weight"])
    assert not torch.equal(best["model"]["own.weight"], last["model"]["own.weight"])


def test_what_a_killed_training_left_half_written_goes(tmp_path):
    for name in (".123-last.pt", ".123-best.pt"):
        (tmp_path / name).touch()
    train(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_scores_are_means_over_the_images(threads):
    data = tiny.data(validation=23)
    model = tiny.network(classes=7)
    images, labels = data.validation.load(torch.arange(23))
    scores = model.eval()(images)
    model.train()
    found = score(model, data.validation, batch_size=8)
    assert model.training
    assert found.loss == pytest.approx(F.cross_entropy(scores, labels).item())
    assert found.top1 == pytest.approx(100 * (scores.argmax(1) == labels).float().mean().item())
    best_five = scores.sort(1, descending=True).indices[:, :5]
    assert found.top5 == pytest.approx(100 * (best_five == labels[:, None]).any(1).float().mean().item())
    assert score(tiny.network(), data.validation).top5 == 100, "of three classes"


def test_fewer_images_than_a_batch_or_processes_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="batch_size: expected at most 41, the number of training images, got 42"):
        Trainer(tiny.network(), tiny.data(), replace(tiny.RECIPE, batch_size=42), tmp_path)
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 processes, got 8"):
        Trainer(tiny.network(), tiny.data(), tiny.RECIPE, tmp_path, processes=Processes(0, 3))
    with pytest.raises(ValueError, match=r"amp: expected None, torch\.bfloat16 or torch\.float16, got torch\.float64"):
        Trainer(tiny.network(), tiny.data(), tiny.RECIPE, tmp_path, amp=torch.float64)


def test_an_image_that_is_left_over_goes_with_the_batch_before(tmp_path, capsys):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    recipe = replace(tiny.RECIPE, epochs=1)
    Trainer(model, tiny.data(train=17), recipe, tmp_path).run()
    assert len(read_csv(tmp_path / "steps.csv")) == 2
    assert "2 steps an epoch, the last of 9 images\n" in capsys.readouterr().out


def test_fewer_than_the_processes_are_left_out_and_it_says_so(tmp_path, capsys):
    recipe = replace(tiny.RECIPE, batch_size=4, ema_decay=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "wrap", lambda self, model, *_: model)
        trainer = Trainer(tiny.network(), tiny.data(train=11), recipe, tmp_path, processes=Processes(0, 2))
    trainer._say_what_is_left_over()
    expected = (
        "2 steps an epoch, the last of 6 images; 1 left out, others each time, so that all processes have as many"
    )
    assert capsys.readouterr().out.endswith(f"{expected}\n")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": tiny.data(classes=4), "model": tiny.network(classes=4)}, "holds a training on 3 classes, not 4"),
        ({"data": tiny.data(name="other")}, "holds a training whose data has name tiny, not other"),
        ({"data": tiny.data(train=42)}, "holds a training whose data has train 41, not 42"),
        ({"recipe": replace(tiny.RECIPE, epochs=4)}, "holds a training whose recipe has epochs 3, not 4"),
        ({"network": {"name": "resnet"}}, "holds a training whose network has name Network, not resnet"),
        (
            {"network": {"name": "Network", "dynamic": True}},
            "network has dynamic None, not True",
        ),
        ({"seed": 1}, "holds a training with seed 0, not 1"),
        ({"model": nn.Sequential(tiny.network()), "network": {"name": "Network"}}, "holds another network, whose"),
        (
            {"model": tiny.network(classes=5)},
            r"holds another network, whose classifier\.weight is \[3, 4\] and not \[5, 4\]",
        ),
    ],
)
def test_a_folder_with_another_training_is_one_sentence_and_stays_as_it_is(finished, change, sentence):
    _, folder = finished
    before = contents(folder)
    arguments = {"model": tiny.network(), "data": tiny.data(), "recipe": tiny.RECIPE, "folder": folder, **change}
    with pytest.raises(TrainingError, match=sentence) as raised:
        Trainer(**arguments, progress=False).run()
    assert str(raised.value).startswith(str(folder / "last.pt"))
    assert str(raised.value).endswith("name another folder")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"half"], ids=["empty", "something else", "the first half of a checkpoint"]
)
def test_a_damaged_checkpoint_is_one_sentence_and_stays(finished, tmp_path, content):
    whole = (finished[1] / "last.pt").read_bytes()
    last = tmp_path / "last.pt"
    last.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    before = contents(tmp_path)
    with pytest.raises(TrainingError, match=r"last\.pt: damaged, or no checkpoint") as raised:
        train(tmp_path)
    assert "\n" not in str(raised.value)
    assert contents(tmp_path) == before


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "model": nn.Linear(1, 1)}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="damaged, or no checkpoint"):
        train(tmp_path)
    torch.save({"model": {}}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="no checkpoint of kerneldna train"):
        train(tmp_path)
    with pytest.raises(TrainingError, match=r"best\.pt: could not be read"):
        checkpoint.load(tmp_path / "best.pt")


def test_the_best_weights_are_not_enough_to_go_on(finished, tmp_path):
    (tmp_path / "last.pt").write_bytes((finished[1] / "best.pt").read_bytes())
    with pytest.raises(TrainingError, match=r"last\.pt: holds the weights alone, as best\.pt does"):
        train(tmp_path)


@pytest.mark.parametrize("name", ["best.pt", "steps.csv", "epochs.csv"])
def test_what_another_training_left_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(TrainingError, match=rf"holds {name} but no last\.pt to go on from"):
        train(tmp_path)
    assert contents(tmp_path) == {tmp_path / name: b"mine"}


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"training\.lock: could not be written \(Not a directory\)"):
        train(tmp_path / "file" / "folder")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, value):
    step, taken = learner.Learner.step, []

    def broken_step(*arguments):
        taken.append(1)
        return step(*arguments) * (value if len(taken) == 8 else 1)

    monkeypatch.setattr(learner.Learner, "step", broken_step)
    with pytest.raises(TrainingError, match=rf"the loss is {value} in epoch 2, step 3 of 5; .*last\.pt keeps"):
        train(tmp_path)
    assert [(row["step"]) for row in read_csv(tmp_path / "epochs.csv")] == ["5"]
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 1
    monkeypatch.setattr(learner.Learner, "step", step)
    assert train(tmp_path).epochs == 3


def test_weights_that_are_no_numbers_are_not_saved(tmp_path, monkeypatch):
    """The loss is that of the step before, so it is still a number."""
    step, taken = learner.Learner.step, []

    def broken_step(one, *batch):
        loss = step(one, *batch)
        taken.append(1)
        if len(taken) == 10:
            one.bare_model.own.weight.data[0] = float("inf")
        return loss

    monkeypatch.setattr(learner.Learner, "step", broken_step)
    with pytest.raises(TrainingError, match=r"own\.weight is not finite after epoch 2; .*last\.pt keeps"):
        train(tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 1
    assert checkpoint.load(tmp_path / "best.pt")["epoch"] == 1


@pytest.mark.parametrize("broken", ["steps.csv", "epochs.csv", "best.pt", "last.pt"])
def test_whatever_cannot_be_written_is_one_sentence_and_nothing_is_lost(tmp_path, monkeypatch, broken):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    if broken.endswith(".csv"):
        fsync = os.fsync
        path = f"{tmp_path}/{broken}"
        monkeypatch.setattr(os, "fsync", lambda d: full() if os.readlink(f"/proc/self/fd/{d}") == path else fsync(d))
    else:
        save = torch.save
        monkeypatch.setattr(
            torch,
            "save",
            lambda content, file: full() if broken in file.name and content["epoch"] else save(content, file),
        )
    with pytest.raises(TrainingError, match=rf"{broken}: could not be written \(No space left on device\); what was"):
        train(tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 0
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    train(tmp_path)
    assert [row["epoch"] for row in read_csv(tmp_path / "epochs.csv")] == ["1", "2", "3"]


def cut_off_at_step(patch, number):
    step, taken = learner.Learner.step, []

    def cut_off(*arguments):
        taken.append(1)
        if len(taken) == number:
            raise Killed
        return step(*arguments)

    patch.setattr(learner.Learner, "step", cut_off)


def interrupt_at(monkeypatch, number, which=signal.SIGINT):
    step, taken = learner.Learner.step, []

    def pressing(*arguments):
        taken.append(1)
        if len(taken) == number:
            signal.raise_signal(which)
        return step(*arguments)

    monkeypatch.setattr(learner.Learner, "step", pressing)


@pytest.mark.parametrize(
    ("step", "where", "which"),
    [(7, "epoch 1 and 2 steps", signal.SIGINT), (10, "epoch 1 and 5 steps", signal.SIGTERM)],
)
def test_an_interruption_saves_and_says_how_to_go_on(finished, tmp_path, monkeypatch, step, where, which):
    before = signal.getsignal(which)
    interrupt_at(monkeypatch, step, which)
    with pytest.raises(KeyboardInterrupt, match=rf"Stopped after {where}; the same command goes on from"):
        train(tmp_path)
    content = checkpoint.load(tmp_path / "last.pt")
    assert 5 * content["epoch"] + content["step"] == step
    assert signal.getsignal(which) is before
    monkeypatch.undo()
    assert train(tmp_path).last_accuracy == finished[0].last_accuracy


def test_ctrl_c_twice_stops_at_once():
    with Interruption(alone=True) as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.came
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_one_of_several_processes_waits_for_the_others():
    """Which torchrun interrupts once more than the terminal did."""
    with Interruption(alone=False) as interruption:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert interruption.came


def test_training_in_another_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(tmp_path)))
    thread.start()
    thread.join()
    assert results[0].epochs == 3


@pytest.mark.usefixtures("with_tensorboard")
def test_tensorboard_gets_what_the_csv_files_get(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.MonkeyPatch.context() as patch:
        cut_off_at_step(patch, 9)
        with pytest.raises(Killed):
            train(tmp_path)
    train(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 16))
    rows = read_csv(tmp_path / "steps.csv")
    assert [event.value for event in losses] == pytest.approx([float(row["loss"]) for row in rows])
    assert [event.step for event in events.Scalars("epoch/validation_accuracy")] == [5, 10, 15]


def test_missing_tqdm_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    Trainer(tiny.network(), tiny.data(), replace(tiny.RECIPE, epochs=1), tmp_path).run()
    output, error = capsys.readouterr()
    assert output.startswith(
        "tqdm is not installed: no progress bars.\n5 steps an epoch, the last of 9 images\nepoch 1/1: loss "
    )
    assert error == ""


@pytest.mark.usefixtures("with_tensorboard")
def test_missing_tensorboard_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(tmp_path)
    assert capsys.readouterr().out.startswith("tensorboard is not installed")


def test_csv_rows_after_the_checkpoint_and_torn_ones_go(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n3,0.1\n")
    for text, expected in (("", "step,loss\n1,0.5\n2,0.25\n"), ("1", "step,loss\n1,0.5\n2,0.25\n")):
        path.write_text(path.read_text() + text)
        log = logs.CsvLog(path, ("step", "loss"), 2)
        log.flush()
        log.close()
        assert path.read_text() == expected
    path.write_text("step,lo")
    logs.CsvLog(path, ("step", "loss"), 2).close()
    assert path.read_text() == "step,loss\n"
    path.write_text("epoch,loss\n")
    with pytest.raises(TrainingError, match=r"steps\.csv: expected the columns step, loss, got epoch,loss"):
        logs.CsvLog(path, ("step", "loss"), 2)
