"""Temperatures of attentions, which change in the first epochs of a training."""

import torch
from torch import Tensor, nn


class Annealed(nn.Module):
    """An attention with a temperature, which goes from `start` to `end` in even steps. It is a buffer, so a checkpoint
    holds it, and `end` until somebody sets it: an attention that nobody anneals works all the same."""

    temperature: Tensor

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self.start, self.end = start, end
        self.register_buffer("temperature", torch.tensor(end))


def set_temperature(network: nn.Module, progress: float) -> None:
    """Sets all temperatures in `network` to where they are when `progress` of the annealing is done: 0 before the first
    epoch, 1 from the end of the annealing on. More than 1 is 1, so that epoch / annealing_epochs serves all through."""
    if not progress >= 0:
        raise ValueError(f"set_temperature: progress must be at least 0, got {progress}")
    for module in network.modules():
        if isinstance(module, Annealed):
            module.temperature.fill_(module.start + (module.end - module.start) * min(progress, 1.0))
