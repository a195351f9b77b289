"""The whole demo: measure, train, write, and prove what was written."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from ..env import environment
from .checkpoint import reload_and_evaluate
from .data import SIDE, Digits
from .measure import BATCH_SIZE, ROUNDS, measure, number_of_ticks
from .model import VARIANTS
from .plots import plot_accuracy, plot_latency
from .report import make_row, to_markdown, write_csv, write_json, write_markdown
from .runs import Learnt, train_all


def run(digits: Digits, output: Path, seeds: int, epochs: int, rounds: int = ROUNDS) -> None:
    """Do it all and leave it in the folder `output`. Ctrl-C while training goes on to write what there is."""
    print(
        f"{len(digits.train)} training, {len(digits.validation)} validation and {len(digits.test)} test images,"
        f" {SIDE}x{SIDE}; threads: {torch.get_num_threads()}. Ctrl-C stops the training and keeps what was learnt.",
        flush=True,
    )
    with tqdm(desc="measuring", total=number_of_ticks(rounds), leave=False, mininterval=0.5) as bar:
        costs = measure(digits.train, rounds, bar.update)
    learnt = train_all(digits, seeds, epochs)

    rows = [make_row(variant, costs[variant], learnt.runs) for variant in VARIANTS]
    setting = {
        "seeds": seeds,
        "epochs": epochs,
        "training_images": len(digits.train),
        "validation_images": len(digits.validation),
        "test_images": len(digits.test),
        "batch_size": BATCH_SIZE,
        "rounds": rounds,
        "stopped": learnt.stopped,
        "environment": environment(),
    }
    checkpoints = save_checkpoints(output / "checkpoints", learnt)
    write_json(output / "results.json", rows, learnt.runs, setting)
    write_csv(output / "results.csv", rows)
    write_markdown(output / "table.md", rows, setting)
    plot_accuracy(output / "accuracy.png", rows)
    plot_latency(output / "latency.png", rows)

    print(f"\n{to_markdown(rows)}")
    if learnt.stopped is not None:
        print(f"{learnt.stopped}\n")
    for path in checkpoints:
        print(f"{path}: loaded again, {reload_and_evaluate(path, digits):.2f} % on the test images as before")
    for name in ("table.md", "results.json", "results.csv", "accuracy.png", "latency.png"):
        print(output / name)


def save_checkpoints(folder: Path, learnt: Learnt) -> list[Path]:
    """One file per variant that finished, and interrupted.pt; those of an earlier demo do not stay beside them."""
    checkpoints = dict(learnt.best)
    if learnt.interrupted is not None:
        checkpoints["interrupted"] = learnt.interrupted
    for name in (*VARIANTS, "interrupted"):
        if name in checkpoints:
            checkpoints[name].save(folder / f"{name}.pt")
        else:
            (folder / f"{name}.pt").unlink(missing_ok=True)
    return [folder / f"{name}.pt" for name in checkpoints]
