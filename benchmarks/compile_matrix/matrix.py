"""Which kernels are compiled: everything that may change the machine code, each change by itself.

The sizes of a problem change constants and not the loop, so one problem stands for all whose channels fill the blocks,
and one for each other case. From there one thing at a time is changed:

    every tile that the data files name    all architectures    with the scales       bfloat16, TF32
                                           sm_80, 90, 100       without them          bfloat16
                                           sm_80, 90            with the scales       float32 without TF32
    the first of them                      sm_80, 90, 100       with the scales       float16, every case of a problem
                                           sm_80, 90, 100       every set of flags    bfloat16

Kernels without tiles of their own count as one tile. Launches that run the same machine code are compiled once.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from kerneldna_ops import triton_kernels
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.forward_choice import tiles_for
from kerneldna_ops.triton_kernels.problem import Problem

from .cells import Cell

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
# One for each kind of tensor-core instruction.
OF_EACH_KIND = (80, 90, 100)
# Without tensor cores code differs little.
WITHOUT_TF32 = (80, 90)
MAIN = Problem(128, 256, 256, 14, 14)
DEPTHWISE = dataclasses.replace(MAIN, groups=256)

CONFIGS = Path(triton_kernels.__file__).parent / "configs"


@dataclass(frozen=True)
class Form:
    """flags: those of the main cells, without and with the scales on the reduction axis; then the other sets."""

    name: str
    unscaled: str
    scaled: str
    others: tuple[str, ...] = ()
    cases: tuple[Problem, ...] = ()
    problem: Problem = MAIN
    tiled: bool = True


@dataclass(frozen=True)
class Tile:
    arch: int
    bits: int  # of the operands
    config: Config | None


# They compute float32 in TF32 only.
TMA_FORMS = ("S", "M", "X")
_STRIDED = dataclasses.replace(MAIN, stride=(2, 2))
_POINTWISE = dataclasses.replace(MAIN, kernel_size=(1, 1), padding=(0, 0))
_ODD = Problem(128, 100, 36, 13, 13)
_GROUPED = dataclasses.replace(MAIN, groups=4)
_CASES = (_STRIDED, _POINTWISE, _ODD, _GROUPED)

FORMS = (
    Form("P", "fb", "gfb", ("", "g", "gs", "gfbr", "gfbd"), _CASES),
    Form("S", "fb", "gfb", ("gs", "gfbr"), (_STRIDED, _POINTWISE)),
    Form("M", "fb", "gfb", ("gs", "gfbr"), (_STRIDED, _POINTWISE)),
    Form("X", "fb", "gfb", ("gs", "gfbr"), (_STRIDED,)),
    Form("dx", "fd", "gfd", ("", "gf"), _CASES),
    Form("dx ds", "d", "gfd", ("",), _CASES),
    Form("dW", "", "gf", ("g", "gsf"), _CASES),
    Form("dW df dg", "d", "gfd", ("gf", "gsfd"), _CASES),
    Form("depthwise", "", "gsfb", ("g", "s"), (dataclasses.replace(DEPTHWISE, stride=(2, 2)),), DEPTHWISE, tiled=False),
    Form(
        "depthwise backward",
        "",
        "gsfb",
        ("g", "s"),
        (dataclasses.replace(DEPTHWISE, stride=(2, 2)),),
        DEPTHWISE,
        tiled=False,
    ),
    Form("squeeze-excite", "", "b", cases=(Problem(128, 64, 64, 56, 56), Problem(1, 512, 512, 7, 7)), tiled=False),
    Form("squeeze-excite training", "", "b", cases=(Problem(32, 512, 512, 7, 7),), tiled=False),
)

# The form that each kernel of backward.json belongs to.
_BACKWARD = {"input": "dx", "spatial": "dx ds", "forward": "P", "weight": "dW", "blocks": "dW df dg"}


def cells() -> Iterator[Cell]:
    for form in FORMS:
        tiles = list(_tiles(form))
        yield from _of_tiles(form, tiles)
        yield from _of_flags_and_cases(form, tiles)


def _of_tiles(form: Form, tiles: list[Tile]) -> Iterator[Cell]:
    for tile in tiles:
        dtype = torch.bfloat16 if tile.bits == 16 else torch.float32
        yield _cell(form, form.problem, form.scaled, tile, dtype)
        if tile.bits == 16 and tile.arch in OF_EACH_KIND:
            yield _cell(form, form.problem, form.unscaled, tile, dtype)
        if tile.bits == 32 and tile.arch in WITHOUT_TF32 and form.name not in TMA_FORMS:
            yield _cell(form, form.problem, form.scaled, tile, dtype, tf32=False)


def _of_flags_and_cases(form: Form, tiles: list[Tile]) -> Iterator[Cell]:
    for arch in OF_EACH_KIND:
        for tile in itertools.islice((tile for tile in tiles if (tile.arch, tile.bits) == (arch, 16)), 1):
            for flags in form.others:
                yield _cell(form, form.problem, flags, tile, torch.bfloat16)
            for problem in form.cases:
                yield _cell(form, problem, form.scaled, tile, torch.bfloat16)
            yield _cell(form, form.problem, form.scaled, tile, torch.float16)
            if form.name == "P":
                assert tile.config is not None
                split = dataclasses.replace(tile, config=dataclasses.replace(tile.config, split_k=4))
                yield _cell(form, form.problem, form.scaled, split, torch.bfloat16)


def _cell(form: Form, problem: Problem, flags: str, tile: Tile, dtype: torch.dtype, tf32: bool = True) -> Cell:
    problem = dataclasses.replace(problem, dtype=dtype, has_g="g" in flags or "s" in flags)
    return Cell(form.name, problem, flags, tile.arch, tile.config, tf32)


def _tiles(form: Form) -> list[Tile]:
    """In the order of the data files; of a kernel that has none in them, one for each architecture."""
    every = list(itertools.product(ARCHITECTURES, (16, 32)))
    if not form.tiled:
        return [Tile(arch, bits, None) for arch, bits in every]
    forward = [
        Tile(arch, bits, tile) for arch, bits in every for tile in tiles_for(arch, bits) if tile.form == form.name
    ]
    kernels = json.loads((CONFIGS / "backward.json").read_text())
    backward = [
        Tile(arch, bits, Config(**tile))
        for kernel, widths in kernels.items()
        if _BACKWARD[kernel] == form.name
        for arch, bits in every
        for tile in widths[str(bits)]
    ]
    return forward + backward
