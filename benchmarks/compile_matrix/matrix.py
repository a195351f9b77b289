"""Which kernels are compiled: everything that may change the machine code, each change by itself.

The sizes of a problem change constants and not the loop, so one problem stands for all whose channels fill the blocks,
and one for each other case. From there one thing at a time is changed:

    every tile that the data files name    all architectures    with the scales       bfloat16, TF32
                                           sm_80, 90, 100       without them          bfloat16
                                           sm_80, 90            with the scales       float32 without TF32
    the first of them                      sm_90                with the scales       float16
                                           sm_80, 90, 100       every set of flags    bfloat16
    the one that is chosen                 sm_80, 90, 100       with the scales       bfloat16, every case of a problem

Less says as much of sm_89, whose code is that of sm_86: one tile, with the scales, in bfloat16; of the gradients of
input and filter attention, which have the kernel of the forward and few of its tiles: those that are chosen, for
sm_80, 90, 100; and of kernels that have no tiles and are taken to have one: float32 for sm_80, 90, 100. What runs the
same machine code is compiled once.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kerneldna_ops.triton_kernels import backward_choice, forward_choice
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.cost_model import DEVICES
from kerneldna_ops.triton_kernels.problem import Problem

from .cells import Cell

CONFIGS = Path(forward_choice.__file__).parent / "configs"
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
# One for each kind of tensor-core instruction, and the device for whose choices it stands.
OF_EACH_KIND = {80: DEVICES["A100"], 90: DEVICES["H200"], 100: DEVICES["B200"]}
# The machine code of sm_89 is that of sm_86.
LIKE_ITS_ELDER = (89,)
# Without tensor cores code differs little.
WITHOUT_TF32 = (80, 90)

MAIN = Problem(128, 256, 256, 14, 14)
DEPTHWISE = replace(MAIN, groups=256)
_STRIDED = replace(MAIN, stride=(2, 2))
_POINTWISE = replace(MAIN, kernel_size=(1, 1), padding=(0, 0))
_FEW_CHANNELS = Problem(128, 64, 64, 56, 56)
_ODD = Problem(128, 100, 36, 13, 13)
_CASES = (_STRIDED, _POINTWISE, _FEW_CHANNELS, _ODD, replace(MAIN, groups=4))
_SQUEEZE_EXCITE_CASES = (Problem(128, 64, 64, 56, 56), Problem(1, 512, 512, 7, 7))


@dataclass(frozen=True)
class Form:
    """flags: those of the main cells, without and with the scales on the reduction axis; then the other sets."""

    name: str  # in forms.FORMS
    unscaled: str
    scaled: str
    others: tuple[str, ...] = ()
    cases: tuple[Problem, ...] = ()
    problem: Problem = MAIN


FORMS = (
    Form("P", "fb", "gfb", ("", "g", "gs"), _CASES),
    Form("S", "fb", "gfb", ("gs"), _CASES),
    Form("M", "fb", "gfb", ("gs"), _CASES),
    Form("X", "fb", "gfb", ("gs"), _CASES),
    Form("df", "d", "gd", ("gsd",), _CASES),
    Form("dx", "fd", "gfd", ("", "gf"), _CASES),
    Form("dx ds", "fd", "gfd", ("",), _CASES),
    Form("dW", "f", "gf", ("", "g", "gsf"), _CASES),
    Form("dW df dg", "fd", "gfd", ("gf", "gsfd"), _CASES),
    Form("depthwise", "fb", "gsfb", ("", "g", "s"), (replace(DEPTHWISE, stride=(2, 2)),), DEPTHWISE),
    Form("depthwise backward", "fb", "gsfb", ("", "g", "s"), (replace(DEPTHWISE, stride=(2, 2)),), DEPTHWISE),
    Form("squeeze-excite", "", "b", (), _SQUEEZE_EXCITE_CASES),
    Form("squeeze-excite training", "", "b", (), _SQUEEZE_EXCITE_CASES[:1]),
)
_FORWARD = ("P", "S", "M", "X")
# Those with the kernel of the forward and few of its tiles.
_LIKE_FORWARD = ("df", "dx")
# What backward_choice calls the kernel of a form.
_BACKWARD = {"df": "forward", "dx": "input", "dx ds": "spatial", "dW": "weight", "dW df dg": "blocks"}


def cells() -> Iterator[Cell]:
    for form in FORMS:
        for arch in ARCHITECTURES:
            if arch in OF_EACH_KIND or form.name not in _LIKE_FORWARD:
                yield from itertools.islice(_of_tiles(form, arch), 1 if arch in LIKE_ITS_ELDER else None)
        for arch in OF_EACH_KIND:
            yield from _of_first_tile(form, arch)
            yield from _of_cases(form, arch)


def _of_tiles(form: Form, arch: int) -> Iterator[Cell]:
    for tile in _tiles(form, arch, 16):
        yield _cell(form, form.scaled, arch, tile)
        if arch in OF_EACH_KIND:
            yield _cell(form, form.unscaled, arch, tile)
    single = replace(form.problem, dtype=torch.float32)
    for tile in _tiles(form, arch, 32):
        yield _cell(form, form.scaled, arch, tile, single)
        # The TMA forms compute float32 in TF32 only.
        if arch in WITHOUT_TF32 and form.name not in ("S", "M", "X"):
            yield replace(_cell(form, form.scaled, arch, tile, single), tf32=False)


def _of_first_tile(form: Form, arch: int) -> Iterator[Cell]:
    for tile in itertools.islice(_tiles(form, arch, 16), 1):
        for flags in form.others:
            yield _cell(form, flags, arch, tile)
        if arch == 90:
            yield _cell(form, form.scaled, arch, tile, replace(form.problem, dtype=torch.float16))
        if form.name == "P" and tile is not None:
            yield _cell(form, form.scaled, arch, replace(tile, split_k=4))


def _of_cases(form: Form, arch: int) -> Iterator[Cell]:
    for problem in form.cases:
        for tile in itertools.islice(_chosen(form, arch, problem), 1):
            yield _cell(form, form.scaled, arch, tile, problem)


def _cell(form: Form, flags: str, arch: int, tile: Config | None, problem: Problem | None = None) -> Cell:
    scaled = "g" in flags or "s" in flags
    return Cell(form.name, replace(problem or form.problem, has_g=scaled), flags, arch, tile)


def _tiles(form: Form, arch: int, bits: int) -> Iterable[Config | None]:
    """In the order of the data files."""
    if form.name in _FORWARD:
        return _forward_tiles(form.name, arch, bits)
    if form.name in _LIKE_FORWARD:
        return _chosen(form, arch, replace(form.problem, dtype=torch.bfloat16 if bits == 16 else torch.float32))
    if form.name in _BACKWARD:
        return backward_choice.candidates(_BACKWARD[form.name], arch, bits)
    return [None] if bits == 16 or arch in OF_EACH_KIND else []


def _forward_tiles(form: str, arch: int, bits: int) -> Iterator[Config]:
    for path in sorted(CONFIGS.glob("*.json")):
        for entry in json.loads(path.read_text()):
            if entry.get("form") == form and arch in entry["archs"] and entry["bits"] == bits:
                yield from (Config(form=form, **tile) for tile in entry["tiles"])


def _chosen(form: Form, arch: int, problem: Problem) -> Iterable[Config | None]:
    """For a call on a GPU that nobody tuned, first."""
    device = OF_EACH_KIND[arch]
    if form.name in _FORWARD:
        return (tile for tile in forward_choice.candidates(problem, device) if tile.form == form.name)
    if form.name in _BACKWARD:
        return [getattr(backward_choice.BackwardConfigs.of(problem, device), _BACKWARD[form.name])]
    return [None]
