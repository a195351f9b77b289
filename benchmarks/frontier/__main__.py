"""A small ResNet and a small MobileNet on Fashion-MNIST: static, KernelDNA, other dynamic layers; one budget.

    python -m benchmarks.frontier            # two hours on two cores; benchmarks/results/frontier/
    python -m benchmarks.frontier --short    # ten minutes; runs/frontier/short/report/

Stop it at any time: the same command goes on. A run that is finished is kept, in runs/frontier/."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.devices import clock_of
from benchmarks.process import KEEP_MEMORY, ROOT, description, restart_with
from kerneldna_ops.measure.networks import Cost, costs
from kerneldna_ops.measure.time import alternate
from kerneldna_ops.training.checkpoint import TrainingError
from kerneldna_ops.training.data import DataError

from .networks import NETWORKS, build
from .plots import plot
from .report import Row, make_rows, markdown
from .settings import BATCH_SIZE, FULL, SHORT, Setting, runs
from .train import WORKERS, Trained, load, train_all
from .variants import STATIC, VARIANTS

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
ROUNDS, SAMPLE_SECONDS = 15, 0.05


def frontier(
    setting: Setting, folder: Path, work: Path, output: Path, device: str, workers: int, rounds: int = ROUNDS
) -> list[Row]:
    """Train what is not trained yet, measure, and write the report."""
    data = load(folder, setting.images)
    todo = runs(setting)
    trained: list[Trained] = []
    for done in train_all(todo, setting, folder, work, device, workers):
        trained.append(done)
        at = f"[{len(trained)}/{len(todo)}]"
        print(f"{at:9}{done.run.name:34}{done.accuracy:6.2f} %  {done.seconds:6.0f} s", flush=True)
    measured = {}
    for network in NETWORKS:
        print(f"measuring the times of {network}", flush=True)
        measured[network] = costs_of(network, data.image_size, data.classes, device, rounds)
    machine = {name: value for name, value in description().items() if name != "package"}
    if device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    about = asdict(setting) | {"recipe": asdict(setting.recipe), "machine_info": machine}
    about |= {"train": len(data.train), "test": len(data.validation)}
    rows = make_rows(trained, measured)
    write_report(output, rows, trained, about)
    for done in trained:
        shutil.copyfile(done.run.folder(work) / "epochs.csv", output / "logs" / f"{done.run.name}.csv")
    print(f"\n{(output / 'table.md').read_text()}\n{output}")
    return rows


def costs_of(network: str, side: int, classes: int, device: str, rounds: int) -> dict[str, Cost]:
    """Of every variant, untrained: what the weights are makes no difference."""
    torch.manual_seed(0)
    images = torch.randn(BATCH_SIZE, 1, side, side, device=device)
    labels = torch.arange(BATCH_SIZE, device=device) % classes
    models = {name: build(network, name, 0, classes, 1).to(device) for name in VARIANTS}
    take_turns = partial(alternate, rounds=rounds, sample_seconds=SAMPLE_SECONDS, clock=clock_of(device))
    return costs(models, images, labels, STATIC, take_turns)


def write_report(output: Path, rows: Sequence[Row], trained: Sequence[Trained], about: dict[str, Any]) -> None:
    (output / "logs").mkdir(parents=True, exist_ok=True)
    figures = about | {"runs": [asdict(done) for done in trained], "variants": [asdict(row) for row in rows]}
    (output / "results.json").write_text(json.dumps(figures, indent=1) + "\n")
    (output / "table.md").write_text(markdown(rows, about))
    for network in NETWORKS:
        title = f"Small {network}, Fashion-MNIST" + (" (short form)" if about["name"] == "short" else "")
        plot([row for row in rows if row.network == network], title, output / f"{network}.png")


def main() -> int:
    restart_with(KEEP_MEMORY)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST, help="folder with the four idx files")
    parser.add_argument("--short", action="store_true", help="ten minutes: fewer images, one epoch, one seed")
    parser.add_argument("--device", choices=WORKERS, default="cpu")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected cpu, because torch finds no GPU here, got cuda")
    setting = SHORT if options.short else FULL
    work = ROOT / "runs/frontier" / (setting.name if options.device == "cpu" else f"{setting.name}-{options.device}")
    results = ROOT / "benchmarks/results/frontier"
    output = work / "report" if options.short else results if options.device == "cpu" else results / options.device
    try:
        frontier(setting, options.data, work, output, options.device, WORKERS[options.device])
    except DataError as error:
        hint = "Fashion-MNIST comes with Debian's package dataset-fashion-mnist; --data names another folder."
        sys.exit(f"{error}\n{hint}")
    except (TrainingError, BrokenProcessPool) as error:
        sys.exit(f"{error}\nWhat was trained is kept in {work}; the same command goes on.")
    except KeyboardInterrupt:
        print(f"\nStopped. What was trained is kept in {work}; the same command goes on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
