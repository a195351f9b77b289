"""Predicts, without touching a GPU, which configurations are worth trying on a problem, and in what order.

A tile of block_m pixels and block_n filters takes T * ceil(C / block_k) steps. A step is as long as the slower of

    tensor cores       2 * block_m * block_n * block_k operations
    the way from L2    the tiles of x, of w and, where every row has its own, of g

and a multiprocessor works through ceil(programs / multiprocessors) tiles: rounding up is the wave quantisation. Once a
tile come filling the pipeline and the epilogue, hidden behind other programs where several fit side by side. A split
reduction adds a pass over its parts. What all configurations of a problem share, such as the time that device memory
takes at least, is left out, and so are the instructions of the loop: neither changed a choice for the published shapes.

Every time here is predicted, not measured: good for an order, and to be held against measured times.
"""

import functools
from dataclasses import dataclass, replace

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
    def l2_share(self) -> float:
        """Bytes from L2 for one multiprocessor in a microsecond."""
        return self.l2 * 1e6 / self.multiprocessors

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

_REGISTERS = 65536
_MAX_PROGRAMS = 8


def predict(problem: Problem, config: Config, device: Device) -> float:
    """Microseconds of the forward convolution. Grouped problems may have any number of groups but C."""
    programs = pixel_tiles(problem, config) * cdiv(problem.per_group[1], config.block_n)
    programs *= problem.groups * config.split_k
    rounds = cdiv(programs, device.multiprocessors)
    steps = cdiv(_steps(problem, config), config.split_k)

    split = config.split_k > 1
    stored = config.block_m * config.block_n * (4 if split else problem.dtype.itemsize)
    once = FILL + stored / device.l2_share
    microseconds = LAUNCH + rounds * (
        steps * _step(problem, config, device) + once / min(_side_by_side(problem, config, device), rounds)
    )
    if split:
        y = problem.out_pixels * problem.out_channels
        # The parts of y written and read, and y written.
        microseconds += LAUNCH + 2 * _stream(config.split_k * y * 4, device)
        microseconds += _stream(y * problem.dtype.itemsize, device)
    return microseconds


@functools.cache
def device_running(device: torch.device) -> Device:
    """Without a GPU, in the interpreter or on meta tensors, an A100."""
    if device.type != "cuda":
        return DEVICES["A100"]
    properties = torch.cuda.get_device_properties(device)
    return device_of(properties.name, 10 * properties.major + properties.minor, properties.multi_processor_count)


def device_of(name: str, arch: int, multiprocessors: int) -> Device:
    """A device as the driver calls it: that of DEVICES whose name it holds, or else the nearest architecture with the
    same kind of tensor-core instruction; the rates in proportion to the multiprocessors."""
    wide = range(90, 120)  # wgmma or tcgen05, with which one instruction multiplies tiles that lie in shared memory
    same_kind = (device for device in DEVICES.values() if (device.arch in wide) == (arch in wide))
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


def _step(problem: Problem, config: Config, device: Device) -> float:
    """Microseconds of one step of the loop."""
    flop = 2 * config.block_m * config.block_n * config.block_k
    return max(
        flop / (product_rate(problem, device) / device.multiprocessors),
        _step_bytes(problem, config) / device.l2_share,
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
    blocks = cdiv(problem.per_group[0], config.block_k)
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


def _stream(size: int, device: Device) -> float:
    """Microseconds to read or write so many bytes; what fits into half of L2 stays there between two kernels."""
    return size / (1e6 * (device.l2 if size < device.l2_size * 0.5e6 else device.memory))


def product_rate(problem: Problem, device: Device) -> float:
    """Operations a microsecond; those of exact float32 run beside the tensor cores."""
    if problem.exact:
        lanes = 64 if device.arch == 80 else 128
        return 2 * lanes * device.multiprocessors * device.clock * 1e3
    return device.tensor * 1e6 / (2 if problem.dtype == torch.float32 else 1)
