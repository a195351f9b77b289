"""However a training is cut off, the same call again ends as if nothing had happened."""

import csv

import pytest
import torch

from kerneldna_ops.training import checkpoint, learner, logs, trainer
from kerneldna_ops.training.trainer import Trainer
from support import tiny


class Killed(BaseException):
    pass


def train(folder, **arguments):
    return Trainer(tiny.network(), tiny.data(), tiny.RECIPE, folder, progress=False, **arguments).run()


def outcome(folder):
    """All that a training leaves, without the times it took."""
    files = {}
    for path in folder.iterdir():
        if path.suffix == ".pt":
            files[path.name] = {**checkpoint.load(path), "seconds": None}
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                files[path.name] = [{**row, "seconds": None} for row in csv.DictReader(file)]
    assert files.keys() == {"last.pt", "best.pt", "steps.csv", "epochs.csv"}
    return files


def assert_same(one, other, where=""):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name, value in one.items():
            assert_same(value, other[name], f"{where}/{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{where}/{number}")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    result = train(folder)
    return result, outcome(folder)


class CutOff:
    """Raises Killed before or after the call number `moment` of those that matter, counted over all of them."""

    def __init__(self, patch, moment):
        self.left = moment
        for place, name in (
            (learner.Learner, "step"),
            (trainer, "score"),
            (logs.CsvLog, "write"),
            (logs.Logs, "flush"),
            (checkpoint, "save"),
            (torch, "save"),
        ):
            patch.setattr(place, name, self._counted(getattr(place, name)))

    def _counted(self, function):
        def call(*arguments, **keywords):
            self._tick()
            result = function(*arguments, **keywords)
            self._tick()
            return result

        return call

    def _tick(self):
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("save_every", [0.0, 1e9], ids=["saved after every step", "saved after every epoch"])
def test_cut_off_at_every_moment(uninterrupted, tmp_path, save_every):
    moment = 1
    while True:
        folder = tmp_path / str(moment)
        with pytest.MonkeyPatch.context() as patch:
            cut_off = CutOff(patch, moment)
            try:
                train(folder, save_every=save_every)
            except Killed:
                pass
            else:
                break
        assert cut_off.left == 0
        result = train(folder, save_every=save_every)
        assert (result.best_accuracy, result.last_accuracy) == (
            uninterrupted[0].best_accuracy,
            uninterrupted[0].last_accuracy,
        )
        assert_same(outcome(folder), uninterrupted[1], f"cut off at {moment}")
        # A prime number: the moments fall everywhere, without all of them being tried.
        moment += 17
    assert moment > 100


def test_cut_off_again_and_again(uninterrupted, tmp_path):
    """Every run gets two steps further, in which nothing but the end of an epoch is saved otherwise."""
    runs = 0
    while True:
        runs += 1
        with pytest.MonkeyPatch.context() as patch:
            steps = []

            def step(*arguments, take=learner.Learner.step, steps=steps):
                steps.append(1)
                if len(steps) == 3:
                    raise Killed
                return take(*arguments)

            patch.setattr(learner.Learner, "step", step)
            try:
                train(tmp_path, save_every=0.0)
                break
            except Killed:
                pass
    assert runs == 8  # fifteen steps
    assert_same(outcome(tmp_path), uninterrupted[1])


def test_a_finished_training_is_left_alone(uninterrupted, tmp_path):
    result = train(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train(tmp_path) == result
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_workers_do_not_change_what_is_learnt(uninterrupted, tmp_path):
    train(tmp_path, workers=2)
    assert_same(outcome(tmp_path), uninterrupted[1])


def test_the_callers_random_numbers_do_not_matter(uninterrupted, tmp_path):
    torch.manual_seed(1234)
    train(tmp_path)
    assert_same(outcome(tmp_path), uninterrupted[1])


def test_another_seed_learns_something_else(uninterrupted, tmp_path):
    train(tmp_path, seed=1)
    with pytest.raises(AssertionError):
        assert_same(outcome(tmp_path)["last.pt"]["model"], uninterrupted[1]["last.pt"]["model"])
