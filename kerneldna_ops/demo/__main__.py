"""`python -m kerneldna_ops.demo`: train small networks with and without shared kernels and compare them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .._extras import how_to_install
from ..commands.options import path, positive

EXTRA = ("sklearn", "matplotlib", "tqdm")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return its exit status: 130 if Ctrl-C came while it was not training, else 0."""
    options = _parser().parse_args(arguments)
    try:
        from .data import load_digits
        from .experiment import run

        digits = load_digits()
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        sys.exit(f"The demo needs {error.name}, which is not installed: {how_to_install('demo')}")
    try:
        run(digits, options.output, options.seeds, options.epochs)
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C outside the training: not all results were written.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m kerneldna_ops.demo",
        description="Train a small residual network on handwritten digits three ways: every convolution with a"
        " kernel of its own, children of shared kernels as published, and children with a fully dynamic adapter.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=path, default=Path("runs/demo"), help="folder for the results")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each network, from seeds 0, 1, ...")
    parser.add_argument("--epochs", type=positive, default=8, help="passes over the training images in each run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
