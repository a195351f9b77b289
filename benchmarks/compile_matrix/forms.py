"""The host functions, called for a cell."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kerneldna_ops.nn._trainable_gate import Statistics, TrainableGate
from kerneldna_ops.triton_kernels import (
    conv_depthwise,
    conv_forward,
    conv_forward_tma,
    conv_sample_blocks,
    conv_spatial_gradient,
    conv_weight_gradient,
    squeeze_excite,
    squeeze_excite_training,
)
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.launch import Launch, recording
from kerneldna_ops.triton_kernels.operands import Scale

from .cells import Cell


def launches(cell: Cell) -> list[Launch]:
    """What the call would run on a GPU, in order."""
    torch.backends.cudnn.conv.fp32_precision = "ieee" if cell.problem.exact else "tf32"
    with recording() as recorded:
        FORMS[cell.form](cell)
    return recorded


def forward(cell: Cell) -> None:
    problem = cell.problem
    operands = {
        "g": g_scale(cell, problem.in_channels),
        "f": scale(cell, "f", problem.out_channels),
        "bias": bias(cell),
    }
    if "d" in cell.flags:
        operands["dot_with"] = output(cell)
    module = conv_forward if cell.form in ("P", "df") else conv_forward_tma
    module.forward(pixels(cell), weight(cell), problem, config(cell), **operands)


def input_gradient(cell: Cell) -> None:
    """The flags are the kernel's: g is f * s of the forward, f its c."""
    problem = cell.problem
    conv_forward.input_gradient(
        output(cell),
        weight(cell),
        problem,
        config(cell),
        g=g_scale(cell, problem.out_channels),
        f=scale(cell, "f", problem.in_channels),
        dot_with=pixels(cell) if "d" in cell.flags else None,
    )


def depthwise(cell: Cell) -> None:
    conv_depthwise.depthwise_forward(pixels(cell), *depthwise_arguments(cell))


def depthwise_backward(cell: Cell) -> None:
    conv_depthwise.depthwise_backward(output(cell), pixels(cell), *depthwise_arguments(cell))


def spatial_gradients(cell: Cell) -> None:
    problem = cell.problem
    conv_spatial_gradient.spatial_gradients(
        output(cell),
        pixels(cell),
        weight(cell),
        problem,
        config(cell),
        s=cell.empty(problem.batch, problem.taps),
        f=scale(cell, "f", problem.out_channels),
        c=scale(cell, "g", problem.in_channels),
        for_channel="d" in cell.flags,
    )


def weight_gradient(cell: Cell) -> None:
    problem = cell.problem
    g, f = g_scale(cell, problem.in_channels), scale(cell, "f", problem.out_channels)
    conv_weight_gradient.weight_gradient(output(cell), pixels(cell), problem, config(cell), g=g, f=f)


def sample_gradients(cell: Cell) -> None:
    problem = cell.problem
    conv_sample_blocks.sample_gradients(
        output(cell),
        pixels(cell),
        weight(cell),
        problem,
        config(cell),
        g=g_scale(cell, problem.in_channels),
        f=scale(cell, "f", problem.out_channels),
        for_weight=True,
        for_filter="d" in cell.flags,
        for_scale="d" in cell.flags,
    )


def squeeze_excite_inference(cell: Cell) -> None:
    problem = cell.problem
    channels, hidden = problem.in_channels, problem.in_channels // REDUCTION
    biases = [cell.empty(size) if "b" in cell.flags else None for size in (hidden, channels)]
    fc1, fc2 = cell.empty(hidden, channels, 1, 1), cell.empty(channels, hidden, 1, 1)
    squeeze_excite.squeeze_excite(channels_last(cell), fc1, biases[0], fc2, biases[1])


def squeeze_excite_gradients(cell: Cell) -> None:
    """Forward and backward, in BatchNorm's training mode."""
    channels, hidden = cell.problem.in_channels, cell.problem.in_channels // REDUCTION
    shapes = ((hidden, channels), (hidden,), (hidden,), (channels, hidden), (channels,))
    operands = [channels_last(cell), *(cell.empty(*shape) for shape in shapes)]
    batches = torch.empty((), dtype=torch.int64, device="meta")
    running = cell.empty(hidden), cell.empty(hidden), batches
    statistics = Statistics(*running, eps=1e-5, momentum=0.1, from_batch=True)
    for operand in operands:
        operand.requires_grad_()
    gate = TrainableGate.apply(squeeze_excite_training, statistics, *operands)
    torch.autograd.grad(gate, operands, torch.empty_like(gate))


FORMS: dict[str, Callable[[Cell], None]] = {
    "P": forward,
    "S": forward,
    "M": forward,
    "X": forward,
    "df": forward,
    "dx": input_gradient,
    "dx ds": spatial_gradients,
    "dW": weight_gradient,
    "dW df dg": sample_gradients,
    "depthwise": depthwise,
    "depthwise backward": depthwise_backward,
    "squeeze-excite": squeeze_excite_inference,
    "squeeze-excite training": squeeze_excite_gradients,
}
# Channels over hidden features of a squeeze-excite module.
REDUCTION = 4


def config(cell: Cell) -> Config:
    assert cell.config is not None
    return cell.config


def pixels(cell: Cell) -> Tensor:
    problem = cell.problem
    return cell.empty(problem.batch, problem.height, problem.width, problem.in_channels)


def channels_last(cell: Cell) -> Tensor:
    return pixels(cell).permute(0, 3, 1, 2)


def output(cell: Cell) -> Tensor:
    problem = cell.problem
    return cell.empty(problem.batch, problem.out_height, problem.out_width, problem.out_channels)


def weight(cell: Cell) -> Tensor:
    problem = cell.problem
    return cell.empty(problem.out_channels, problem.taps, problem.in_channels // problem.groups)


def bias(cell: Cell) -> Tensor | None:
    return cell.empty(cell.problem.out_channels) if "b" in cell.flags else None


def scale(cell: Cell, flag: str, channels: int) -> Scale | None:
    return Scale(cell.empty(cell.problem.batch, channels), channels) if flag in cell.flags else None


def g_scale(cell: Cell, channels: int) -> Scale | None:
    if "s" not in cell.flags:
        return scale(cell, "g", channels)
    taps = cell.problem.taps
    return Scale(cell.empty(cell.problem.batch, taps, channels), taps * channels, channels)


def depthwise_arguments(cell: Cell) -> tuple[Any, ...]:
    """All but the pixels."""
    problem, batch, channels = cell.problem, cell.problem.batch, cell.problem.in_channels
    shapes = {"g": (batch, channels), "f": (batch, channels), "s": (batch, *problem.kernel_size)}
    attentions = [cell.empty(*shape) if flag in cell.flags else None for flag, shape in shapes.items()]
    sizes = problem.stride, problem.padding, problem.dilation
    return cell.empty(channels, *problem.kernel_size), *attentions, bias(cell), *sizes
