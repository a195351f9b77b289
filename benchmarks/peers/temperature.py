"""Temperatures of attentions, which come down in the first epochs of a training."""

from torch.nn import Module

from kerneldna_ops.nn import DynamicConv2d, ODConv2d

from .kernel_warehouse import KernelWarehouseConv2d

# At the start and in the end; the first of them: nearly equal shares train all kernels at first.
_RANGES = {DynamicConv2d: (30.0, 1.0), ODConv2d: (30.0, 1.0), KernelWarehouseConv2d: (1.0, 0.0)}


def has_temperatures(network: Module) -> bool:
    return any(isinstance(module, tuple(_RANGES)) for module in network.modules())


def set_temperature(network: Module, progress: float) -> None:
    """Sets all temperatures in `network` to where they are when `progress` of the annealing is done: 0 before the first
    epoch, 1 from the end of the annealing on. More than 1 is 1, so that epoch / annealing_epochs serves all through."""
    if not progress >= 0:
        raise ValueError(f"set_temperature: progress must be at least 0, got {progress}")
    for module in network.modules():
        for kind, (start, end) in _RANGES.items():
            if isinstance(module, kind):
                module.attention.temperature = start + (end - start) * min(progress, 1.0)
