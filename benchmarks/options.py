"""The options that say which cases to measure, shared by the command lines."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import torch

from . import devices
from .candidates import CANDIDATES, STATIC
from .cases import BATCHES, DTYPES, LAYOUTS, MODES, PLAIN_SHAPES, SHAPES, Case, Shape


def listed(kind: Callable[[str], object]) -> Callable[[str], list[object]]:
    """Parses `a,b,c`, each part by `kind`, whose ValueError becomes the message."""

    def parse(text: str) -> list[object]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"expected one of {', '.join(names)}, got {name!r}")
        return name

    return check


def shapes(text: str) -> list[object]:
    return listed(Shape.parse)(",".join(SHAPES) if text == "all" else text)


def add_cases(parser: argparse.ArgumentParser, modes: Sequence[str], candidates: Sequence[str]) -> None:
    plain = [Shape.parse(name) for name in PLAIN_SHAPES]
    parser.add_argument("--shapes", type=shapes, default=plain, help="'all', or such as " + ", ".join(SHAPES))
    parser.add_argument("--batches", type=listed(int), default=list(BATCHES))
    parser.add_argument("--layouts", type=listed(one_of(LAYOUTS)), default=["nchw"], help="of " + ", ".join(LAYOUTS))
    parser.add_argument("--modes", type=listed(one_of(MODES)), default=list(modes), help="of " + ", ".join(MODES))
    known = one_of(CANDIDATES)
    help = "beside static, of " + ", ".join(name for name in CANDIDATES if name != STATIC)
    parser.add_argument("--candidates", type=listed(known), default=list(candidates), help=help)
    parser.add_argument("--dtype", type=listed(one_of(DTYPES)), default=["float32"], help="of " + ", ".join(DTYPES))
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=devices.DEVICES, default=devices.CPU, help=DEVICE_HELP)
    parser.add_argument("--threads", type=int, default=2)


DEVICE_HELP = f"default: {devices.CPU}; {devices.STAND_IN} tries the code for GPUs on the CPU, its figures mean nothing"


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, the process made ready for the device and the threads among them."""
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        devices.ready(options.device)
    except ValueError as error:
        parser.error(f"argument --device: {error}")
    return options


def cases(options: argparse.Namespace) -> Iterator[Case]:
    parts = options.dtype, options.modes, options.layouts, options.shapes, options.batches
    for dtype, mode, layout, shape, batch in product(*parts):
        yield Case(shape, batch, layout, mode, dtype, options.device)


def names(options: argparse.Namespace) -> list[str]:
    """The candidates asked for, static first."""
    return list(dict.fromkeys([STATIC, *options.candidates]))
