"""How the backward of a shape is run: by which of the two ways for f and s, by whose kernels, in which tiles.

Estimates throughout, from the instructions of the compiled kernels; a tuned choice may say otherwise.
"""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .config import Config
from .conv_weight_gradient import weight_blocks
from .cost_model import Device, product_rate
from .launch import cdiv
from .problem import Problem

Maker = Literal["kernel", "aten"]

# What a multiprocessor does beside its tensor cores: 4 schedulers start an instruction of 32 lanes each.
LANES_PER_CLOCK = 4 * 32
# Instructions for each element of the weight and sample around the products of conv_sample_blocks.py, counted in its
# machine code for sm_90 in bfloat16, and how many more there are where f has a gradient.
BLOCKS_INSTRUCTIONS, BLOCKS_INSTRUCTIONS_FOR_FILTER = 10, 11
# Instructions for each pixel, channel and tap around the products of conv_spatial_gradient.py, counted likewise.
TAPS_INSTRUCTIONS = 8

# Steps of a program below which starting it costs more than it saves.
_STEPS_OF_A_PROGRAM = 8
MOST_SPLITS = 32

_CONFIGS = Path(__file__).parent / "configs" / "backward.json"


@dataclass(frozen=True)
class Choice:
    """input, weight: whether this project's kernel or aten's convolution_backward, with passes before and after it,
    makes the gradients of the input (with c) and of the weight (with all that is static, and with f in "passes").

    per_sample: where the gradients of f and s per sample come from: "blocks" of the weight gradient (which then is this
    project's), or "passes" (s: the input gradient tap by tap, f: the forward product once more); None: use_blocks says.
    """

    input: Maker = "kernel"
    weight: Maker = "kernel"
    per_sample: Literal["blocks", "passes"] | None = None


# Where nothing was measured, aten wherever it has a form.
UNTUNED = Choice("aten", "aten", "passes")


def choices(filter_per_sample: bool, spatial_per_sample: bool) -> list[Choice]:
    """All that are worth measuring, at most six; aten's kernels have no form where s is per sample."""
    if spatial_per_sample:
        return [Choice(per_sample="blocks"), Choice(per_sample="passes")]
    makers: tuple[Maker, ...] = ("aten", "kernel")
    ways = [Choice(input, weight, "passes") for input in makers for weight in makers]
    return ways + [Choice(input, "kernel", "blocks") for input in makers if filter_per_sample]


@dataclass(frozen=True)
class Wanted:
    """What the kernels have to make; channel, filter, spatial: gradients per sample; weight: or of anything static."""

    input: bool
    weight: bool
    channel: bool
    filter: bool
    spatial: bool


@dataclass(frozen=True)
class BackwardConfigs:
    """The tiles of each kernel; those of weight and blocks have channels, filters and pixels for block_m, _n and _k."""

    input: Config
    spatial: Config
    forward: Config
    weight: Config
    blocks: Config

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def of(cls, problem: Problem, device: Device) -> "BackwardConfigs":
        """Of the candidates, which go from large to small, the first whose tiles the sizes fill.

        Masks of strides, and of channels that fill no block, leave too few registers for the largest tile.
        """
        channels, filters = problem.per_group
        in_pixels = problem.batch * problem.height * problem.width
        bits = problem.dtype.itemsize * 8
        ragged = channels % 64 != 0 or filters % 64 != 0
        strided = problem.stride != (1, 1)

        def of_kernel(kernel: str, masked: bool = False) -> list[Config]:
            tiles = candidates(kernel, device.arch, bits)
            return (tiles[1:] or tiles) if masked else tiles

        products = of_kernel("product", masked=ragged or strided)
        weight, blocks = (
            _filled(of_kernel(kernel, masked), channels, filters)
            for kernel, masked in (("weight", False), ("blocks", ragged))
        )
        return cls(
            input=_filled(products, in_pixels, channels),
            spatial=_filled(of_kernel("spatial", masked=ragged), in_pixels, channels),
            forward=_filled(products, problem.out_pixels, filters),
            weight=_split(weight, problem, device, cdiv(problem.out_pixels, weight.block_k) // _STEPS_OF_A_PROGRAM),
            blocks=_split(blocks, problem, device, problem.batch),
        )


def use_blocks(problem: Problem, wanted: Wanted, device: Device) -> bool:
    """Whether conv_sample_blocks.py is the cheaper way to what is wanted.

    A price is in units of one matrix product of the size of the convolution, 2 operations for each product of its sum.
    With gradients of s but not of f the two cross where an output map has 1.25 times as many pixels as a group has
    filters: 128 at 28x28 goes by blocks, 256 at 14x14 by taps.
    """
    if not (wanted.filter or wanted.spatial):
        return False
    cycles = device.multiprocessors * device.clock * 1e3  # of all multiprocessors, in a microsecond
    tensor_flop = product_rate(problem, device) / cycles / LANES_PER_CLOCK
    per_element = BLOCKS_INSTRUCTIONS + wanted.filter * BLOCKS_INSTRUCTIONS_FOR_FILTER
    blocks = 1 + per_element * tensor_flop / (2 * problem.out_height * problem.out_width) + wanted.input
    taps = TAPS_INSTRUCTIONS * tensor_flop / (2 * problem.per_group[1])
    input = wanted.input or wanted.channel or wanted.spatial
    passes = wanted.weight + wanted.filter + input + wanted.spatial * taps
    return blocks < passes


def candidates(kernel: str, arch: int, bits: int) -> list[Config]:
    """All tiles that the data file names for a kernel, an architecture (90 for sm_90) and the bits of an element, from
    large to small. Kernels: "product" (conv_forward.py with sums), "weight", "blocks", "spatial"."""
    entries = [entry for entry in _entries() if entry["kernel"] == kernel and entry["bits"] == bits]
    known = {a for entry in entries for a in entry["archs"]}
    nearest = max((a for a in known if a <= arch), default=min(known))
    form = "P" if kernel == "product" else kernel
    return [Config(form=form, **tile) for entry in entries if nearest in entry["archs"] for tile in entry["tiles"]]


@functools.cache
def _entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(_CONFIGS.read_text())
    return entries


def _filled(tiles: list[Config], m: int, n: int) -> Config:
    def next_power_of_two(size: int) -> int:
        return 1 << (size - 1).bit_length()

    fitting = (t for t in tiles if t.block_m <= next_power_of_two(m) and t.block_n <= next_power_of_two(n))
    return next(fitting, tiles[-1])


def _split(config: Config, problem: Problem, device: Device, most: int) -> Config:
    """With the split of a tile that fills whole waves of programs best for the price of its parts in float32.

    In seconds: the products at the rate of the tensor cores, and each part written and read once.
    """
    tiles = weight_blocks(problem, config) * problem.groups
    parts = problem.macs // max(problem.out_pixels, 1) * 2 * 4 / (device.memory * 1e12)
    products = 2e-6 * problem.macs / product_rate(problem, device)

    def seconds(split: int) -> float:
        waves = cdiv(tiles * split, device.multiprocessors)
        return products * waves * device.multiprocessors / (tiles * split) + (split > 1) * split * parts

    return replace(config, split_k=min(range(1, max(1, min(most, MOST_SPLITS)) + 1), key=seconds))
