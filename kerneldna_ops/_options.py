"""Options that several commands take."""

from __future__ import annotations

import argparse

import torch

AMP = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def add_data(parser: argparse.ArgumentParser) -> None:
    """--data, what training.data.open_data takes."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="digits, a folder of idx files (MNIST, Fashion-MNIST), a folder with train/CLASS/ and val/CLASS/ or with"
        " CLASS/ alone, or torchvision:NAME:ROOT; nothing is downloaded",
    )


def add_device(parser: argparse.ArgumentParser, devices: str) -> None:
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help=devices)


def add_computation(parser: argparse.ArgumentParser, devices: str = "cpu or cuda") -> None:
    """--device, --amp and --channels-last."""
    add_device(parser, devices)
    parser.add_argument("--amp", choices=AMP, help="compute in this dtype where that is safe")
    parser.add_argument("--channels-last", action="store_true", help="the memory format that GPUs prefer")
