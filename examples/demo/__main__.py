"""`make demo`: train a small residual network on handwritten digits three ways, every convolution with a kernel of its
own, children of shared kernels as published, and children whose attention comes from the input, and compare them.

    python -m examples.demo --output runs/demo

It needs the packages of the extra "demo". Stop it at any time: the same command goes on."""

import argparse
import sys
from itertools import product
from pathlib import Path

import torch

from kerneldna_ops._extras import how_to_install
from kerneldna_ops.commands.options import path, positive
from kerneldna_ops.training.checkpoint import TrainingError
from kerneldna_ops.training.sources import open_data


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m examples.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=path, default=Path("runs/demo"), help="folder for checkpoints and results")
    parser.add_argument("--seeds", type=positive, default=3, help="trainings of each network")
    parser.add_argument("--epochs", type=positive, default=6, help="passes over the images in each")
    options = parser.parse_args(arguments)
    try:
        run(options.output, options.seeds, options.epochs)
    except ModuleNotFoundError as error:
        sys.exit(f"The demo needs more packages ({error}): {how_to_install('demo')}")
    except TrainingError as error:
        sys.exit(str(error))
    except KeyboardInterrupt as stopped:
        print(f"\n{str(stopped) or 'Stopped by Ctrl-C; the same command goes on.'}", file=sys.stderr)
        return 130
    return 0


def run(output: Path, seeds: int, epochs: int) -> None:
    """Ctrl-C while training still writes what there is, and then raises."""
    # Here, because they need the packages of the extra.
    from tqdm import tqdm

    from .experiment import ROUNDS, load_back, measure, peak_memory, train
    from .network import VARIANTS
    from .report import Row, table, write

    data = open_data("digits")
    print(
        f"{len(data.train)} images to train on, {len(data.validation)} to report on; {torch.get_num_threads()} threads"
    )
    with tqdm(desc="measuring", total=2 * ROUNDS, leave=False) as bar:
        costs = measure(data, bar.update)
    peaks = peak_memory()

    accuracies: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    folders = {}
    stopped = None
    try:
        for seed, variant in product(range(seeds), VARIANTS):
            print(f"{variant}, seed {seed}", flush=True)
            folder = output / f"{variant}-{seed}"
            accuracies[variant].append(train(variant, seed, data, epochs, folder))
            folders[folder] = variant
    except KeyboardInterrupt as error:
        stopped = error
    rows = [Row(variant, accuracies[variant], costs[variant], peaks[variant]) for variant in VARIANTS]
    write(output, rows, {"train": len(data.train), "validation": len(data.validation), "epochs": epochs})
    print(f"\n{table(rows)}")
    for folder, variant in folders.items():
        print(f"{folder}/last.pt: loaded again, {load_back(variant, folder, data):.2f} % as before")
    print(*(output / name for name in ("table.md", "results.json", "results.png")), sep="\n")
    if stopped is not None:
        raise stopped


if __name__ == "__main__":
    sys.exit(main())
