"""Which configurations of the forward convolution are worth trying on a GPU, in the order of their predicted times."""

import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import conv_forward_tma
from .config import Config
from .cost_model import Device, pixel_tiles, predict
from .launch import cdiv
from .problem import Problem

MOST_CANDIDATES = 11  # composite is the twelfth
_SPLITS = (1, 2, 3, 4, 6, 8)
# Steps of a program below which starting it and adding its part up costs more than it saves.
_STEPS_OF_A_PROGRAM = 8

_CONFIGS = Path(__file__).parent / "configs"


@functools.lru_cache(maxsize=4096)
def candidates(problem: Problem, device: Device) -> tuple[Config, ...]:
    """At most MOST_CANDIDATES configurations, the one predicted to be fastest first.

    Several splits of the reduction of one tile count as one candidate, its best.
    """
    fitting = [config for config in _ranked(problem.size_class, device) if _fits(problem, config)]
    return tuple(fitting[:MOST_CANDIDATES])


@functools.lru_cache(maxsize=4096)
def _ranked(problem: Problem, device: Device) -> tuple[Config, ...]:
    def time(config: Config) -> float:
        return predict(problem, config, device)

    tiles = tiles_for(device.arch, problem.dtype.itemsize * 8)
    return tuple(sorted((min(_splits(problem, config, device), key=time) for config in tiles), key=time))


@functools.cache
def tiles_for(arch: int, bits: int) -> tuple[Config, ...]:
    """All tiles that the data files name for an architecture (90 for sm_90) and the bits of an element."""
    nearest = max((known for known in _archs() if known <= arch), default=min(_archs()))
    return tuple(
        Config(form=entry["form"], **tile)
        for entry in _entries()
        if nearest in entry["archs"] and bits == entry["bits"]
        for tile in entry["tiles"]
    )


@functools.cache
def _entries() -> list[dict[str, Any]]:
    return [entry for name in ("forward", "tma") for entry in json.loads((_CONFIGS / f"{name}.json").read_text())]


@functools.cache
def _archs() -> set[int]:
    return {arch for entry in _entries() for arch in entry["archs"]}


def _fits(problem: Problem, config: Config) -> bool:
    return config.form == "P" or conv_forward_tma.can_run(problem, config)


def _splits(problem: Problem, config: Config, device: Device) -> Iterator[Config]:
    """The reduction whole, and where that leaves multiprocessors idle, split; only form P can."""
    yield config
    if config.form != "P":
        return
    filters = problem.out_channels // problem.groups
    programs = pixel_tiles(problem, config) * cdiv(filters, config.block_n) * problem.groups
    steps = problem.taps * cdiv(problem.in_channels // problem.groups, config.block_k)
    for split in _SPLITS[1:]:
        if programs * split <= 2 * device.multiprocessors and split * _STEPS_OF_A_PROGRAM <= steps:
            yield replace(config, split_k=split)
