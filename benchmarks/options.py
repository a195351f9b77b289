"""The options that say which cases to measure, shared by the command lines."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

from .candidates import CANDIDATES, STATIC
from .cases import BATCHES, LAYOUTS, MODES, PLAIN_SHAPES, SHAPES, Case, Shape


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
    parser.add_argument("--threads", type=int, default=2)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    for mode, layout, shape, batch in product(options.modes, options.layouts, options.shapes, options.batches):
        yield Case(shape, batch, layout, mode)


def names(options: argparse.Namespace) -> list[str]:
    """The candidates asked for, static first."""
    return list(dict.fromkeys([STATIC, *options.candidates]))
