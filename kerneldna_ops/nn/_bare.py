"""Whether a layer may be replaced by what its class computes."""

from torch import nn


def is_bare(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether calling the layer is what one of `kinds` does and nothing else: no parametrization, no hook."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) in kinds and not any(hooks)
