"""Which layers of a network start from random weights of its own choice."""

from collections.abc import Iterator

from torch import nn

from ..nn import SqueezeExcite


def weighted_layers(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """The convolutions, and both layers of the squeeze-excites, which the published networks write as convolutions.

    Not the classifier, and not the heads of dynamic attention, which start at zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            yield module
        elif isinstance(module, SqueezeExcite):
            yield module.fc1
            yield module.fc2
