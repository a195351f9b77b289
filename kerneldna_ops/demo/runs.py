"""Every variant trained from every seed, and what of it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from tqdm import tqdm

from .checkpoint import Checkpoint, Run
from .data import Digits
from .model import VARIANTS
from .train import Best, Training, evaluate, steps_per_epoch


@dataclass
class Learnt:
    """The finished runs, and of each variant the checkpoint of the one that did best on the validation images.

    If Ctrl-C ended it, `stopped` says so, and `interrupted` is the best epoch of the run under way, if one was through.
    """

    runs: list[Run] = field(default_factory=list)
    best: dict[str, Checkpoint] = field(default_factory=dict)
    interrupted: Checkpoint | None = None
    stopped: str | None = None

    def add(self, finished: Checkpoint) -> None:
        kept = self.best.get(finished.run.variant)
        if kept is None or finished.run.validation_accuracy > kept.run.validation_accuracy:
            self.best[finished.run.variant] = finished
        self.runs.append(finished.run)


def train_all(digits: Digits, seeds: int, epochs: int) -> Learnt:
    """Train the variants in turn from each seed, until done or until Ctrl-C."""
    learnt = Learnt()
    order = [(variant, seed) for seed in range(seeds) for variant in VARIANTS]
    steps = len(order) * epochs * steps_per_epoch(digits)
    under_way: Training | None = None
    try:
        with tqdm(total=steps, unit="step", leave=False, mininterval=0.5) as bar:
            for variant, seed in order:
                bar.set_description(f"training {variant}, seed {seed}")
                under_way = Training(variant, seed, digits, epochs)
                best = under_way.run(bar.update)
                learnt.add(_checkpoint(under_way, best))
                under_way = None
                bar.write(f"{variant}, seed {seed}: {learnt.runs[-1].test_accuracy:.2f} % on the test images")
    except KeyboardInterrupt:
        learnt.stopped = f"Stopped by Ctrl-C after {len(learnt.runs)} of {len(order)} runs, whose figures these are."
        if under_way is not None and under_way.best is not None:
            learnt.interrupted = _checkpoint(under_way, under_way.best)
            learnt.stopped += (
                f" The run under way ({under_way.variant}, seed {under_way.seed}) is kept at its best epoch,"
                f" {under_way.best.epoch}, as checkpoints/interrupted.pt."
            )
    return learnt


def _checkpoint(training: Training, best: Best) -> Checkpoint:
    training.model.load_state_dict(best.state)
    run = Run(
        training.variant,
        training.seed,
        best.epoch,
        best.validation_accuracy,
        evaluate(training.model, training.digits.test),
        perf_counter() - training.started,
    )
    return Checkpoint(run, best.state)
