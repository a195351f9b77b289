"""Predicts, without touching a GPU, how long a configuration takes on a problem, and so which ones are worth trying.

A tile of block_m pixels and block_n filters takes T * ceil(C / block_k) steps. A step is as long as the slowest of

    tensor cores       2 * block_m * block_n * block_k operations
    issue slots        the instructions of the loop, four a clock and multiprocessor
    the way from L2    the tiles of x, of w and, where every row has its own, of g

and a multiprocessor works through ceil(programs / multiprocessors) tiles: rounding up is the wave quantisation. Once a
tile come filling the pipeline and the epilogue, hidden behind other programs where several fit side by side. No
convolution is faster than device memory can move x, y, w and g once. A split reduction adds a pass over its parts.

Every time here is predicted, not measured: good for an order, and to be held against measured times.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from .config import Config
from .problem import Problem, cdiv, round_up


@dataclass(frozen=True)
class Device:
    """A GPU. Its rates are sustained ones: those that a large matrix product and a large copy reach."""

    name: str
    arch: int  # 90 for sm_90
    multiprocessors: int
    tensor: float  # TFLOP/s with 16-bit operands and float32 sums; TF32 has half
    flop_per_clock: int  # of one multiprocessor's tensor cores
    memory: float  # TB/s
    l2: float  # TB/s between L2 and all multiprocessors
    l2_size: float  # MB
    shared: int  # KB of shared memory that the programs of a multiprocessor have together

    @property
    def clock(self) -> float:
        """The GHz at which the tensor cores give the sustained rate."""
        return self.tensor * 1e3 / (self.multiprocessors * self.flop_per_clock)


# What one H200 was measured to sustain of its datasheet's rates: a bf16 matrix product of 8192^3 ran at 790 of
# 989 TFLOP/s, a copy within the device at 4.3 of 4.8 TB/s. The other devices are assumed to sustain as much.
_TENSOR_SUSTAINED = 790 / 989
_MEMORY_SUSTAINED = 4.3 / 4.8

# Multiprocessors, TFLOP/s (dense, float32 sums), TB/s: NVIDIA's datasheets (SXM parts). Operations a clock: its
# architecture papers. L2 MB and shared KB: its programming guide. L2 TB/s are estimates: 80 % of 5120 bytes a clock,
# for the B200, which has two dies, twice that; of the RTX 4090 what published microbenchmarks say.
_DATASHEETS = {
    "A100": (80, 108, 312.0, 2048, 2.04, 5.8, 40, 164),
    "H100": (90, 132, 989.0, 4096, 3.35, 7.5, 50, 228),
    "H200": (90, 132, 989.0, 4096, 4.80, 7.5, 60, 228),
    "B200": (100, 148, 2250.0, 8192, 8.00, 15.0, 126, 228),
    "RTX 4090": (89, 128, 165.2, 512, 1.01, 5.0, 72, 100),
}
DEVICES = {
    name: Device(name, arch, count, tensor * _TENSOR_SUSTAINED, flop, memory * _MEMORY_SUSTAINED, l2, l2_size, shared)
    for name, (arch, count, tensor, flop, memory, l2, l2_size, shared) in _DATASHEETS.items()
}

# All of these are estimates. In microseconds: from one kernel to the next, and from a program's start to its first
# product (one trip to device memory).
LAUNCH = 2.0
FILL = 1.0
# What cuDNN reaches of the roofline with a static convolution.
CUDNN_EFFICIENCY = 0.85

_SCHEDULERS = 4
_REGISTERS = 65536
_MAX_PROGRAMS = 8


def has_wide_products(arch: int) -> bool:
    """wgmma or tcgen05, with which one instruction multiplies tiles that lie in shared memory."""
    return 90 <= arch < 120


class Ranked(NamedTuple):
    config: Config
    microseconds: float  # predicted, not measured


def rank(problem: Problem, configs: Iterable[Config], device: Device) -> list[Ranked]:
    """The configurations with their predicted times, fastest first; equals keep their order."""
    found = (Ranked(config, predict(problem, config, device)) for config in configs)
    return sorted(found, key=lambda entry: entry.microseconds)


def predict(problem: Problem, config: Config, device: Device) -> float:
    """Microseconds of the forward convolution. Grouped problems may have any number of groups but C."""
    programs = pixel_tiles(problem, config) * cdiv(_filters(problem), config.block_n)
    programs *= problem.groups * config.split_k
    rounds = cdiv(programs, device.multiprocessors)
    steps = cdiv(_steps(problem, config), config.split_k)

    split = config.split_k > 1
    stored = config.block_m * config.block_n * (4 if split else problem.dtype.itemsize)
    once = FILL + stored / _per_multiprocessor(device.l2, device)
    compute = rounds * (
        steps * _step(problem, config, device) + once / min(_side_by_side(problem, config, device), rounds)
    )
    memory = (_input_bytes(problem) + (0 if split else _output_bytes(problem))) / _per_microsecond(device.memory)
    microseconds = LAUNCH + max(compute, memory)
    if split:
        parts_of_y = config.split_k * problem.out_pixels * problem.out_channels * 4
        # Written and read.
        microseconds += LAUNCH + 2 * _stream(parts_of_y, device) + _stream(_output_bytes(problem), device)
    return microseconds


def static(problem: Problem, device: Device) -> float:
    """Microseconds of cuDNN with static weights: the roofline at CUDNN_EFFICIENCY."""
    memory = (_pixel_bytes(problem) + _weight_bytes(problem) + _output_bytes(problem)) / _per_microsecond(device.memory)
    return LAUNCH + max(2 * problem.macs / product_rate(problem, device), memory) / CUDNN_EFFICIENCY


def composite(problem: Problem, device: Device) -> float:
    """Microseconds of (x*c), cuDNN, y*f: a pass over y and, where has_g, one over x. Only c and f, no s per sample."""
    passes = LAUNCH + 2 * _stream(_output_bytes(problem), device)
    if problem.has_g:
        passes += LAUNCH + 2 * _stream(_pixel_bytes(problem), device)
    return static(problem, device) + passes


def device_of(name: str, arch: int, multiprocessors: int) -> Device:
    """A device as the driver calls it: that of DEVICES whose name it holds, or else the nearest architecture with the
    same kind of tensor-core instruction; the rates in proportion to the multiprocessors."""
    same_kind = (device for device in DEVICES.values() if has_wide_products(device.arch) == has_wide_products(arch))
    like = min(same_kind, key=lambda device: (device.name not in name, abs(device.arch - arch)))
    share = multiprocessors / like.multiprocessors
    return replace(
        like,
        name=name,
        arch=arch,
        multiprocessors=multiprocessors,
        tensor=like.tensor * share,
        memory=like.memory * share,
        l2=like.l2 * share,
        l2_size=like.l2_size * share,
    )


def pixel_tiles(problem: Problem, config: Config) -> int:
    """Tiles of pixels, those of all samples together."""
    if config.form != "P":
        samples, height, width = box(problem, config)
        return cdiv(problem.batch, samples) * cdiv(problem.out_height, height) * cdiv(problem.out_width, width)
    return cdiv(problem.out_pixels, config.block_m)


def box(problem: Problem, config: Config) -> tuple[int, int, int]:
    """Samples, rows and columns of a tile of forms S, M and X: the config's, or else the powers of two with the fewest
    tiles, and then the fewest samples."""
    if config.box is not None:
        return config.box
    if config.form == "X":
        return config.block_m, 1, 1

    def tiles(candidate: tuple[int, int, int]) -> tuple[int, tuple[int, int, int]]:
        sizes = (problem.batch, round_up(problem.out_height), round_up(problem.out_width))
        count = 1
        for size, extent in zip(sizes, candidate, strict=True):
            count *= cdiv(size, extent)
        return count, candidate

    bits = config.block_m.bit_length() - 1
    samples = range(bits + 1) if config.form == "M" else [0]
    return min(((1 << n, 1 << h, 1 << (bits - n - h)) for n in samples for h in range(bits - n + 1)), key=tiles)


def loop_instructions(problem: Problem, config: Config, device: Device) -> float:
    """Of one warp in one step: what the compiled kernels in benchmarks/results/compile have, within a third where there
    are several taps and the channels fill the blocks."""
    threads = 32 * config.num_warps
    size = problem.dtype.itemsize
    rows = config.block_m + config.block_n
    scaled = (config.block_n if config.form == "S" else config.block_m) * config.block_k / threads
    instructions = 105.0
    if config.form == "P":
        # For 16 bytes to shared memory: the address, the predicate, the copy.
        instructions += 4 * rows * config.block_k * size / 16 / threads - 15
    elif config.form != "S" and device.arch < 100:
        # wgmma takes a box of many samples from registers, scaled or not.
        instructions += 0.5 * size * scaled
    if not has_wide_products(device.arch):
        # And the loads from shared memory for them.
        products = config.block_m * config.block_n * config.block_k * size / (16 * 8 * 32) / config.num_warps
        instructions += 1.6 * products
    if problem.has_g:
        # The operand that is scaled goes through registers: g comes, both are loaded, and multiplied.
        instructions += 0.7 * size * scaled
    return instructions


def _step(problem: Problem, config: Config, device: Device) -> float:
    """Microseconds of one step of the loop: of the slowest of what may bound it."""
    flop = 2 * config.block_m * config.block_n * config.block_k
    slots = loop_instructions(problem, config, device) * config.num_warps / _SCHEDULERS
    return max(
        flop / (product_rate(problem, device) / device.multiprocessors),
        slots / (device.clock * 1e3),
        _step_bytes(problem, config) / _per_multiprocessor(device.l2, device),
    )


def _step_bytes(problem: Problem, config: Config) -> int:
    row = config.block_k * problem.dtype.itemsize
    size = (config.block_m + config.block_n) * row
    if problem.has_g and config.form == "P":
        # Rows of one sample read the same g, and the lanes of a warp, 512 bytes together, fetch it once.
        size += config.block_m * min(row, row * row // 512)
    return size


def _steps(problem: Problem, config: Config) -> int:
    """Of a tile. Form X leaves out the taps that lie on the padding of its pixel: then the average, rounded up."""
    blocks = cdiv(problem.in_channels // problem.groups, config.block_k)
    if config.form != "X":
        return problem.taps * blocks
    inside = _taps_inside(problem, 0) * _taps_inside(problem, 1)
    return cdiv(inside * blocks, problem.out_height * problem.out_width)


def _taps_inside(problem: Problem, axis: int) -> int:
    """Taps of all output pixels along an axis that do not lie on the padding."""
    size = (problem.height, problem.width)[axis]
    pixels = (problem.out_height, problem.out_width)[axis]
    stride, padding, dilation = problem.stride[axis], problem.padding[axis], problem.dilation[axis]
    positions = (p * stride - padding + u * dilation for p in range(pixels) for u in range(problem.kernel_size[axis]))
    return sum(0 <= position < size for position in positions)


def _side_by_side(problem: Problem, config: Config, device: Device) -> int:
    """Programs that fit on a multiprocessor together."""
    shared = _step_bytes(problem, config) * config.num_stages
    threads = 32 * config.num_warps
    registers = min(config.block_m * config.block_n // threads + 72, 255) * threads
    return max(1, min(device.shared * 1024 // shared, _REGISTERS // registers, _MAX_PROGRAMS))


def _input_bytes(problem: Problem) -> int:
    """x, w and g, once each."""
    g = problem.batch * problem.taps * problem.in_channels * problem.dtype.itemsize if problem.has_g else 0
    return _pixel_bytes(problem) + _weight_bytes(problem) + g


def _pixel_bytes(problem: Problem) -> int:
    return problem.batch * problem.in_channels * problem.height * problem.width * problem.dtype.itemsize


def _weight_bytes(problem: Problem) -> int:
    return _filters(problem) * problem.in_channels * problem.taps * problem.dtype.itemsize


def _output_bytes(problem: Problem) -> int:
    return problem.out_pixels * problem.out_channels * problem.dtype.itemsize


def _filters(problem: Problem) -> int:
    """Of one group."""
    return problem.out_channels // problem.groups


def _stream(size: int, device: Device) -> float:
    """Microseconds to read or write so many bytes; what fits into half of L2 stays there between two kernels."""
    return size / _per_microsecond(device.l2 if size < device.l2_size * 0.5e6 else device.memory)


def product_rate(problem: Problem, device: Device) -> float:
    """Operations a microsecond; those of exact float32 run beside the tensor cores."""
    if problem.exact:
        lanes = 64 if device.arch == 80 else 128
        return 2 * lanes * device.multiprocessors * device.clock * 1e3
    return device.tensor * 1e6 / (2 if problem.dtype == torch.float32 else 1)


def _per_microsecond(terabytes_per_second: float) -> float:
    return terabytes_per_second * 1e6


def _per_multiprocessor(terabytes_per_second: float, device: Device) -> float:
    return _per_microsecond(terabytes_per_second) / device.multiprocessors
