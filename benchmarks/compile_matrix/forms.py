"""The host functions, called for a cell."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kerneldna_ops.nn._trainable_gate import Statistics
from kerneldna_ops.triton_kernels import squeeze_excite_training
from kerneldna_ops.triton_kernels.conv_depthwise import depthwise_backward, depthwise_forward
from kerneldna_ops.triton_kernels.conv_product import forward
from kerneldna_ops.triton_kernels.conv_sample_blocks import sample_gradients
from kerneldna_ops.triton_kernels.conv_spatial_gradient import spatial_gradients
from kerneldna_ops.triton_kernels.conv_weight_gradient import weight_gradient
from kerneldna_ops.triton_kernels.launch import Launch, recording
from kerneldna_ops.triton_kernels.squeeze_excite import squeeze_excite

from .cells import Cell

# Channels over hidden features of a squeeze-excite module.
REDUCTION = 4


def launches(cell: Cell) -> list[Launch]:
    """What the call would run on a GPU, in order."""
    torch.backends.cudnn.conv.fp32_precision = "ieee" if cell.problem.exact else "tf32"
    with recording() as recorded:
        FORMS[cell.form](cell)
    return recorded


def product(cell: Cell) -> None:
    channels, filters = cell.problem.in_channels, cell.problem.out_channels
    scales = cell.g(channels), cell.scale("f", filters)
    dot_with = cell.output if "d" in cell.flags else None
    forward(cell.pixels, cell.weight, cell.problem, cell.tile, *scales, cell.bias, dot_with)


def input_gradient(cell: Cell) -> None:
    """The flags are the kernel's: g is f * s of the forward, f its c."""
    channels, filters = cell.problem.in_channels, cell.problem.out_channels
    scales = cell.g(filters), cell.scale("f", channels)
    dot_with = cell.pixels if "d" in cell.flags else None
    forward(cell.output, cell.weight, cell.problem, cell.tile, *scales, dot_with=dot_with, transposed=True)


def of_taps(cell: Cell) -> None:
    s = cell.empty(cell.problem.batch, cell.problem.taps)
    f, c = cell.scale("f", cell.problem.out_channels), cell.scale("g", cell.problem.in_channels)
    operands = cell.output, cell.pixels, cell.weight
    spatial_gradients(*operands, cell.problem, cell.tile, s, f, c, for_channel="d" in cell.flags)


def of_weight(cell: Cell) -> None:
    g, f = cell.g(cell.problem.in_channels), cell.scale("f", cell.problem.out_channels)
    weight_gradient(cell.output, cell.pixels, cell.problem, cell.tile, g, f)


def of_samples(cell: Cell) -> None:
    g, f = cell.g(cell.problem.in_channels), cell.scale("f", cell.problem.out_channels)
    wanted = True, "d" in cell.flags, "d" in cell.flags
    sample_gradients(cell.output, cell.pixels, cell.weight, cell.problem, cell.tile, g, f, *wanted)


def depthwise_arguments(cell: Cell) -> tuple[Any, ...]:
    """All but the pixels."""
    problem, batch, channels = cell.problem, cell.problem.batch, cell.problem.in_channels
    shapes = {"g": (batch, channels), "f": (batch, channels), "s": (batch, *problem.kernel_size)}
    attentions = [cell.empty(*shape) if flag in cell.flags else None for flag, shape in shapes.items()]
    return cell.empty(channels, *problem.kernel_size), *attentions, cell.bias, problem


def gate(cell: Cell) -> None:
    """For inference."""
    channels, hidden = cell.problem.in_channels, cell.problem.in_channels // REDUCTION
    biases = [cell.empty(size) if "b" in cell.flags else None for size in (hidden, channels)]
    fc1, fc2 = cell.empty(hidden, channels, 1, 1), cell.empty(channels, hidden, 1, 1)
    squeeze_excite(channels_last(cell), fc1, biases[0], fc2, biases[1])


def gate_gradients(cell: Cell) -> None:
    """Forward and backward, in BatchNorm's training mode."""
    channels, hidden = cell.problem.in_channels, cell.problem.in_channels // REDUCTION
    shapes = ((hidden, channels), (hidden,), (hidden,), (channels, hidden), (channels,))
    operands = [channels_last(cell), *(cell.empty(*shape) for shape in shapes)]
    batches = torch.empty((), dtype=torch.int64, device="meta")
    running = cell.empty(hidden), cell.empty(hidden), batches
    statistics = Statistics(*running, eps=1e-5, momentum=0.1, from_batch=True)
    output, kept = squeeze_excite_training.forward(operands, statistics)
    squeeze_excite_training.backward(output, operands, statistics, output, kept)


def channels_last(cell: Cell) -> Tensor:
    return cell.pixels.permute(0, 3, 1, 2)


FORMS: dict[str, Callable[[Cell], object]] = {
    **dict.fromkeys(("P", "S", "M", "X", "df"), product),
    "dx": input_gradient,
    "dx ds": of_taps,
    "dW": of_weight,
    "dW df dg": of_samples,
    "depthwise": lambda cell: depthwise_forward(cell.pixels, *depthwise_arguments(cell)),
    "depthwise backward": lambda cell: depthwise_backward(cell.output, cell.pixels, *depthwise_arguments(cell)),
    "squeeze-excite": gate,
    "squeeze-excite training": gate_gradients,
}
