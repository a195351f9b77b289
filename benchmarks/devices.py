"""Where a benchmark runs: on the CPU, on an NVIDIA GPU, or on the CPU as if it were one, to try the code for GPUs."""

import math

import torch

from kerneldna_ops.measure.time import Clock, Timed, device_clock, wall_clock

from . import stand_in

CPU, CUDA, STAND_IN = DEVICES = ("cpu", "cuda", "stand-in")

# Calls take turns on so many copies of their operands that these are together so many times as large as the L2 cache:
# no call finds its operands there, as in a network, and what one candidate leaves helps no other.
CACHES, MOST_SETS = 3, 128


def torch_device(name: str) -> torch.device:
    return torch.device(CUDA if name == CUDA else CPU)


def ready(name: str) -> None:
    """Makes the process ready to measure on the device. Raises ValueError where there is none."""
    if name == CUDA and not torch.cuda.is_available():
        raise ValueError("PyTorch sees no CUDA device here")
    if name == STAND_IN:
        stand_in.install()
    if name != CPU:
        torch.backends.cudnn.benchmark = True  # the rivals get cuDNN's best algorithm, not its guess


def clock_of(name: str) -> Clock:
    return wall_clock if name == CPU else device_clock


def operand_sets(name: str, moved: int) -> int:
    """How many copies of operands of so many bytes the calls take turns on."""
    if name == CPU:
        return 1
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    return min(max(math.ceil(CACHES * l2 / moved), 2), MOST_SETS)


def graphed(call: Timed) -> Timed:
    """The call as a CUDA graph, for one of more launches than the driver lets the host be ahead."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles, lets cuDNN choose, makes what is kept
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> object:
        graph.replay()
        return result  # which lives in the graph's memory

    return replay
