"""Options that several commands take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..training.data import MOST_PIXELS

AMP = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Numbers beyond these, and images beyond MOST_PIXELS, are slips of the keyboard: a machine would run out of memory, of
# processes or of patience.
MOST = 2**31 - 1
MOST_WORKERS = 256
MOST_SEED = 2**64 - 1  # torch.manual_seed takes no more


def whole(low: int, high: int = MOST) -> Callable[[str], int]:
    """The type of an option: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        # By its length first: Python refuses to read thousands of digits.
        if not text.isdecimal() or len(text) > 30 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return parse


positive = whole(1)


def seconds(text: str) -> float:
    """The type of an option: a number, at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, at least 0, got {text!r}")
    return value


def path(text: str) -> Path:
    """The type of an option: a path, which the empty one would be too, of the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def is_file(model: str, weights: Path | None = None) -> bool:
    """Whether MODEL means a file of kerneldna train: no name of a network, whatever folder is called like that, and not
    a name that `weights` are for, whatever file is."""
    return Path(model).suffix in (".pt", ".pth") or (weights is None and Path(model).is_file())


def add_data(parser: argparse.ArgumentParser) -> None:
    """--data, what training.sources.open_data takes."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="digits, a folder of idx files (MNIST, Fashion-MNIST), a folder with train/CLASS/ and val/CLASS/ or with"
        " CLASS/ alone, or torchvision:NAME:ROOT; nothing is downloaded",
    )


def add_image_size(parser: argparse.ArgumentParser, help: str, default: int | None = None) -> None:
    parser.add_argument("--image-size", type=whole(1, MOST_PIXELS), default=default, metavar="PIXELS", help=help)


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=whole(0, MOST_WORKERS), default=0, help="processes that load images")


def add_device(parser: argparse.ArgumentParser, devices: str) -> None:
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help=devices)


def add_computation(parser: argparse.ArgumentParser, devices: str = "cpu or cuda") -> None:
    """--device, --amp and --channels-last."""
    add_device(parser, devices)
    parser.add_argument("--amp", choices=AMP, help="compute in this dtype where that is safe")
    parser.add_argument("--channels-last", action="store_true", help="the memory format that GPUs prefer")
