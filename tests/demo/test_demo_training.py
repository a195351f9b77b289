import pytest
import torch

from kerneldna_ops.demo import runs, train
from kerneldna_ops.demo.checkpoint import Checkpoint, Run, reload_and_evaluate
from kerneldna_ops.demo.data import Digits, Images
from kerneldna_ops.demo.experiment import save_checkpoints
from kerneldna_ops.demo.model import VARIANTS
from kerneldna_ops.demo.runs import train_all
from kerneldna_ops.demo.train import Training, evaluate

STEPS = 3  # an epoch of few_digits


class CtrlC:
    """Raises KeyboardInterrupt in the middle of training step number `step`, counted from 1 over all runs."""

    def __init__(self, monkeypatch, step):
        self.left = step
        self.training_step = train.training_step
        monkeypatch.setattr(train, "training_step", self)

    def __call__(self, *arguments):
        self.training_step(*arguments)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_weights(few_digits, variant):
    first, second, other = (Training(variant, seed, few_digits, 2).run(lambda: None) for seed in (1, 1, 2))
    assert first.epoch == second.epoch
    for name, value in first.state.items():
        assert torch.equal(value, second.state[name]), name
    assert not all(torch.equal(value, other.state[name]) for name, value in first.state.items())


def test_all_variants_see_the_images_in_the_same_order(few_digits, monkeypatch):
    seen = []
    training_step = train.training_step

    def look(model, optimizer, images, labels):
        seen.append(labels)
        training_step(model, optimizer, images, labels)

    monkeypatch.setattr(train, "training_step", look)
    for variant, seed in (("static", 5), ("kerneldna", 5), ("static", 6)):
        Training(variant, seed, few_digits, 2).run(lambda: None)
    epochs = [torch.cat(seen[first : first + STEPS]) for first in range(0, 6 * STEPS, STEPS)]
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])
    for other in (1, 4):
        assert not torch.equal(epochs[0], epochs[other]), "every epoch and every seed has an order of its own"


def test_the_epoch_is_chosen_on_the_validation_images(few_digits, monkeypatch):
    training = Training("static", 0, few_digits, 4)
    accuracies = iter([50.0, 80.0, 80.0, 60.0])
    asked = []

    def known_accuracy(model, part):
        asked.append(part)
        return next(accuracies)

    monkeypatch.setattr(train, "evaluate", known_accuracy)
    best = training.run(lambda: None)
    assert (best.epoch, best.validation_accuracy) == (3, 80.0)
    assert all(part is few_digits.validation for part in asked)
    now = training.model.state_dict()
    assert not torch.equal(best.state["classifier.weight"], now["classifier.weight"])


def test_accuracy_is_a_share_in_percent(few_digits):
    class Fives(torch.nn.Module):
        def forward(self, images):
            assert not self.training
            return torch.nn.functional.one_hot(torch.full((len(images),), 5), 10)

    labels = torch.tensor([5] * 300 + [4] * 100)
    part = Images(torch.zeros(400, 1, 32, 32), labels)
    assert evaluate(Fives(), part) == 75.0


def test_too_few_images_are_refused(few_digits):
    few = Images(few_digits.train.images[:31], few_digits.train.labels[:31])
    with pytest.raises(ValueError, match="expected at least 32 training images, one batch, got 31"):
        train_all(Digits(few, few_digits.validation, few_digits.test), seeds=1, epochs=1)
    with pytest.raises(ValueError, match="epochs: expected at least 1, got 0"):
        Training("static", 0, few_digits, 0).run(lambda: None)


def test_ctrl_c_keeps_the_finished_runs_and_the_best_epoch_of_the_run_under_way(few_digits, monkeypatch, tmp_path):
    epochs = 3
    CtrlC(monkeypatch, step=(epochs + 2) * STEPS + 2)  # second run, its third epoch
    learnt = train_all(few_digits, seeds=2, epochs=epochs)
    assert [(run.variant, run.seed) for run in learnt.runs] == [("static", 0)]
    assert list(learnt.best) == ["static"]
    kept = learnt.interrupted.run
    assert (kept.variant, kept.seed) == ("kerneldna", 0)
    assert kept.epoch in (1, 2)
    assert learnt.stopped == (
        "Stopped by Ctrl-C after 1 of 6 runs, whose figures these are. The run under way (kerneldna, seed 0) is kept at"
        f" its best epoch, {kept.epoch}, as checkpoints/interrupted.pt."
    )
    paths = save_checkpoints(tmp_path, learnt)
    assert sorted(paths) == sorted(tmp_path.iterdir()) == [tmp_path / "interrupted.pt", tmp_path / "static.pt"]
    assert reload_and_evaluate(tmp_path / "interrupted.pt", few_digits) == kept.test_accuracy


def test_the_test_accuracy_is_that_of_the_weights_that_are_kept(few_digits, monkeypatch):
    evaluated = []

    def look(model, part):
        evaluated.append((part, model.classifier.weight.detach().clone()))
        return 50.0

    monkeypatch.setattr(runs, "evaluate", look)
    CtrlC(monkeypatch, step=STEPS + 2)  # the weights have moved on since the first epoch, which is kept
    learnt = train_all(few_digits, seeds=1, epochs=2)
    [(part, weight)] = evaluated
    assert part is few_digits.test
    assert torch.equal(weight, learnt.interrupted.state["classifier.weight"])


def test_ctrl_c_before_the_first_epoch_is_through(few_digits, monkeypatch):
    CtrlC(monkeypatch, step=2)
    learnt = train_all(few_digits, seeds=1, epochs=1)
    assert learnt.runs == []
    assert learnt.interrupted is None
    assert learnt.stopped == "Stopped by Ctrl-C after 0 of 3 runs, whose figures these are."


def test_the_checkpoint_of_a_variant_is_its_best_run_on_validation(few_digits, tmp_path):
    learnt = train_all(few_digits, seeds=2, epochs=1)
    assert [(run.variant, run.seed) for run in learnt.runs] == [(v, s) for s in range(2) for v in VARIANTS]
    for path in save_checkpoints(tmp_path, learnt):
        run = Checkpoint.load(path).run
        rivals = [other for other in learnt.runs if other.variant == run.variant]
        assert run in rivals
        assert run.validation_accuracy == max(other.validation_accuracy for other in rivals)
        assert reload_and_evaluate(path, few_digits) == run.test_accuracy


def test_a_checkpoint_that_is_not_what_was_recorded_is_found_out(few_digits, tmp_path):
    best = Training("static", 0, few_digits, 1).run(lambda: None)
    Checkpoint(Run("static", 0, 1, best.validation_accuracy, 101.0, 1.0), best.state).save(tmp_path / "static.pt")
    with pytest.raises(RuntimeError, match=r"static.pt: expected 101.0 % on the test images, got \d"):
        reload_and_evaluate(tmp_path / "static.pt", few_digits)


def test_checkpoints_of_an_earlier_demo_do_not_stay(few_digits, tmp_path, monkeypatch):
    (tmp_path / "interrupted.pt").touch()
    (tmp_path / "kerneldna.pt").touch()
    (tmp_path / "mine.pt").touch()
    CtrlC(monkeypatch, step=STEPS + 1)
    save_checkpoints(tmp_path, train_all(few_digits, seeds=1, epochs=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.pt", "static.pt"]
