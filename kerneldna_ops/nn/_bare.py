"""When a layer may compute what its parts do without calling them: one predicate for all fast forms.

Only where every part is exactly what it was built as, and nobody has to see the parts at work. Everywhere else the
modules are called one by one.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from .._eager import is_eager

_PLAIN = (Tensor, nn.Parameter)
_HOOKS_OF_ALL_MODULES = (
    _module._global_forward_hooks,
    _module._global_forward_pre_hooks,
    _module._global_backward_hooks,
    _module._global_backward_pre_hooks,
)


def is_bare(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether calling the layer is what one of `kinds` does and nothing else.

    It has that very class, which a parametrization changes; no hook, whether a user's or that by which the old pruning,
    weight_norm and spectral_norm work; and no forward was put on the instance.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) in kinds and not any(hooks) and "forward" not in layer.__dict__


def is_plain_call() -> bool:
    """Whether no transform is at work that reads what the modules' own operators do, and no hook on all modules."""
    return is_eager() and not any(_HOOKS_OF_ALL_MODULES)


def are_plain(*tensors: Any) -> bool:
    """Whether all are strided tensors of torch's own classes, none is None, and they have one dtype and device."""
    first = tensors[0]
    for tensor in tensors:
        if type(tensor) not in _PLAIN or tensor.dtype != first.dtype or tensor.device != first.device:
            return False
        if tensor.layout != torch.strided:
            return False
    return True


def under_autocast(tensor: Tensor) -> bool:
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # not on meta
