"""Which kernels are compiled: those that a rule or a choice needs, and what may change the machine code of each.

The sizes of a problem change constants and not the loop, so one problem stands for all whose channels fill the blocks,
and one for each other case. From there one thing at a time is changed:

    every tile that the data files name    sm_80, 90, 100    with the scales       bfloat16
    the first of them, the largest         sm_86, 120        with the scales       bfloat16
                                           sm_80, 90         with the scales       TF32
                                           sm_80             with the scales       exact float32
                                           sm_90             without them          bfloat16
                                           sm_90             with the scales       float16
                                           sm_90             other sets of flags   bfloat16
    the one that is chosen                 sm_90             with the scales       bfloat16, every case
                                           sm_80             with the scales       bfloat16, odd channels

sm_86, 89 and 120 have the instructions of sm_80 and less shared memory. Kernels that have no tiles are compiled for
sm_80 and 90. What runs the same machine code is compiled once.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from kerneldna_ops.triton_kernels import backward_choice, forward_choice
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.cost_model import DEVICES, Device
from kerneldna_ops.triton_kernels.problem import Problem

from .cells import Cell

ARCHITECTURES = (80, 86, 90, 100, 120)
# One for each kind of tensor-core instruction, and the device for whose choices it stands.
OF_EACH_KIND = {80: DEVICES["A100"], 90: DEVICES["H200"], 100: DEVICES["B200"]}

MAIN = Problem(128, 256, 256, 14, 14)
DEPTHWISE = replace(MAIN, groups=256)
_STRIDED = replace(MAIN, stride=(2, 2))
_POINTWISE = replace(MAIN, kernel_size=(1, 1), padding=(0, 0))
_ODD = Problem(128, 100, 36, 13, 13)
_CASES = (_ODD, _STRIDED, _POINTWISE, replace(MAIN, groups=4))
# A row of pixels, one pixel of one sample, and so few pixels that a tile has those of many samples.
_SMALLEST = (
    replace(MAIN, height=1, kernel_size=(1, 3), padding=(0, 1)),
    Problem(1, 1024, 256, 1, 1, kernel_size=(1, 1), padding=(0, 0)),
    Problem(128, 256, 512, 4, 4, stride=(2, 2)),
)
_SQUEEZE_EXCITE_CASES = (Problem(128, 64, 64, 56, 56), Problem(1, 512, 512, 7, 7))


@dataclass(frozen=True)
class Form:
    """flags: those of the main cells, without and with the scales on the reduction axis; then the other sets."""

    name: str  # in forms.FORMS
    unscaled: str
    scaled: str
    others: tuple[str, ...] = ()
    cases: tuple[Problem, ...] = _CASES
    smallest: tuple[Problem, ...] = _SMALLEST
    problem: Problem = MAIN


_DEPTHWISE_CASES = ((replace(DEPTHWISE, stride=(2, 2)),), (replace(DEPTHWISE, height=1),), DEPTHWISE)
FORMS = (
    Form("P", "fb", "gfb", ("gs",)),
    Form("S", "fb", "gfb", ("gs",)),
    Form("M", "fb", "gfb"),
    Form("X", "fb", "gfb"),
    Form("df", "d", "gd", cases=(), smallest=_SMALLEST[1:2]),
    Form("dx", "fd", "gfd", ("gf",)),
    Form("dx ds", "fd", "gfd", ("",)),
    Form("dW", "f", "gf", ("g", "gsf")),
    Form("dW df dg", "fd", "gfd", ("gf", "gsfd")),
    Form("depthwise", "fb", "gsfb", (), *_DEPTHWISE_CASES),
    Form("depthwise backward", "fb", "gsfb", (), *_DEPTHWISE_CASES),
    Form("squeeze-excite", "", "b", (), _SQUEEZE_EXCITE_CASES, ()),
    Form("squeeze-excite training", "", "b", (), _SQUEEZE_EXCITE_CASES[:1], ()),
)
_FORWARD = ("P", "S", "M", "X")
# What backward_choice calls the kernel of a form. The first two have that of the forward and few of its tiles.
_BACKWARD = {"df": "forward", "dx": "input", "dx ds": "spatial", "dW": "weight", "dW df dg": "blocks"}
_LIKE_FORWARD = ("df", "dx")


def cells() -> Iterator[Cell]:
    for form in FORMS:
        for arch in ARCHITECTURES:
            tiles = list(_tiles(form, arch, form.problem))
            for tile in tiles if arch in OF_EACH_KIND else tiles[:1]:
                yield _cell(form, form.scaled, arch, tile, form.problem)
        half, single = (replace(form.problem, dtype=dtype) for dtype in (torch.float16, torch.float32))
        exact = replace(single, exact=True)
        for arch, flags, problem in (
            *((90, flags, form.problem) for flags in (form.unscaled, *form.others)),
            *((90, form.scaled, half), (90, form.scaled, single), (80, form.scaled, single), (80, form.scaled, exact)),
        ):
            for tile in itertools.islice(_tiles(form, arch, problem), 1):
                yield _cell(form, flags, arch, tile, problem)
        for arch, problems in ((80, form.cases[:1]), (90, form.cases + form.smallest)):
            for problem in problems:
                for tile in itertools.islice(_chosen(form, OF_EACH_KIND[arch], problem), 1):
                    yield _cell(form, form.scaled, arch, tile, problem)


def _cell(form: Form, flags: str, arch: int, tile: Config | None, problem: Problem) -> Cell:
    return Cell(form.name, replace(problem, has_g="g" in flags or "s" in flags), flags, arch, tile)


def _tiles(form: Form, arch: int, problem: Problem) -> Iterable[Config | None]:
    """In the order of the data files."""
    bits = problem.dtype.itemsize * 8
    if form.name in _FORWARD:
        return (tile for tile in forward_choice.tiles_for(arch, bits) if tile.form == form.name)
    if form.name in _LIKE_FORWARD:
        return _chosen(form, OF_EACH_KIND[arch], problem) if arch in OF_EACH_KIND else ()
    if form.name in _BACKWARD:
        return backward_choice.candidates(_BACKWARD[form.name], arch, bits)
    return [None] if arch in (80, 90) else []


def _chosen(form: Form, device: Device, problem: Problem) -> Iterable[Config | None]:
    """For a call on a GPU that nobody tuned, first."""
    if form.name in _FORWARD:
        return (tile for tile in forward_choice.candidates(problem, device) if tile.form == form.name)
    if form.name in _BACKWARD:
        return [getattr(backward_choice.BackwardConfigs.of(problem, device), _BACKWARD[form.name])]
    return [None]
