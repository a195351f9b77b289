"""Tuning a model for this GPU before it serves or trains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .backends import _autotune


def warmup(model: nn.Module, *inputs: Any, backward: bool = False) -> int:
    """Compile what the model needs for these inputs and measure, for each of its convolutions, which way is fastest.

    Runs the model twice: once to see which calls of torch.ops.kerneldna.conv have a shape class that nobody tuned on
    this device, then with the autotuner on (see `autotune`, where the results are kept too). Later runs start with what
    was found. Kernels are compiled on all cores at once. Bars of tqdm, if that is installed, show the kernels compiled
    and the shape classes done. The model stays as it was: its buffers, such as BatchNorm's statistics, are put back,
    and no `.grad` changes.

    Args:
        model: called as model(*inputs), in the mode, dtype and memory format that it is in, and under the autocast that
            is on; not one that torch.compile has compiled, which would hide its calls.
        inputs: a batch as it will come later: a shape class counts the batch up to the next power of two.
        backward: also tune the backward of what the model returns, through all floating-point tensors in it.

    Returns how many shape classes were tuned: 0 where no fused GPU backend can run, and where all are known already.
    """
    with _untouched(model):
        with _bar("compiling", "kernel") as step, _autotune.collect(on_compiled=step) as unknown:
            _run(model, inputs, backward)
        with _bar("tuning", "shape", len(unknown)) as step, _autotune.autotune(on_tuned=step):
            _run(model, inputs, backward)
    return len(unknown)


def _run(model: nn.Module, inputs: tuple[Any, ...], backward: bool) -> None:
    with nullcontext() if backward else torch.no_grad():
        output = model(*inputs)
    if not backward:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    outputs = [tensor for tensor in _tensors(output) if tensor.requires_grad]
    if parameters and outputs:
        # In the layout of the output, as a loss's gradient is; that of a sum would be one number, expanded.
        torch.autograd.grad(outputs, parameters, [torch.ones_like(output) for output in outputs], allow_unused=True)


def _tensors(output: Any) -> Iterator[Tensor]:
    leaves, _ = torch.utils._pytree.tree_flatten(output)
    return (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])


@contextmanager
def _bar(does: str, unit: str, total: int | None = None) -> Iterator[Callable[[], object]]:
    """Steps of a number that is known or shows as they go; without any there is no bar."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield lambda: None
        return
    bar: Any = None

    def step() -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=does, unit=unit)
        bar.update()

    try:
        yield step
    finally:
        if bar is not None:
            bar.close()
