"""Options that several commands take."""

from __future__ import annotations

import argparse

import torch

AMP = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def add_computation(parser: argparse.ArgumentParser, devices: str = "cpu or cuda") -> None:
    """--device, --amp and --channels-last."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help=devices)
    parser.add_argument("--amp", choices=AMP, help="compute in this dtype where that is safe")
    parser.add_argument("--channels-last", action="store_true", help="the memory format that GPUs prefer")
