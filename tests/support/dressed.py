"""What people do to the parts of a gate, and the gate and a child of it by calling the modules one by one."""

from contextlib import contextmanager
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)
from torch.nn.utils import parametrizations, prune


def gate(se, input):
    return torch.sigmoid(se.fc2(torch.relu(se.bn(se.fc1(input.mean((2, 3)))))))


def child(layer, input):
    """Of a child whose filter and spatial attention are static and whose geometry is that of its parent."""
    adapter, parent = layer.adapter, layer.parent
    weight = parent.weight * (1 + adapter.filter_attention)[:, None, None, None] * (1 + adapter.spatial_attention)
    input = input * gate(adapter.se, input)[:, :, None, None]
    return F.conv2d(input, weight, layer.bias, parent.stride, parent.padding)


def dynamic_conv(layer, input):
    """Of nn.DynamicConv2d, with a kernel for each sample."""
    attention = layer.attention
    logits = attention.fc2(torch.relu(attention.fc1(input.mean((2, 3), True)))).flatten(1)
    shares = torch.softmax(logits / attention.temperature, 1)
    kernels, biases = torch.einsum("nk,k...->n...", shares, layer.weight), shares @ layer.bias
    samples = zip(input.split(1), kernels.unbind(), biases.unbind(), strict=True)
    return torch.cat([F.conv2d(x, *own, layer.stride, layer.padding) for x, *own in samples])


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class Logged(Tensor):
    """A subclass as quantisation and sharding libraries make them; it computes what a Tensor does, but scaled."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        found = super().__torch_function__(function, types, args, kwargs or {})
        return 2 * found.as_subclass(Tensor) if function is F.linear else found


def hooked(register):
    return lambda part: register(part)


def with_forward(part):
    part.forward = MethodType(lambda self, input: type(self).forward(self, input) + 3, part)


def doubled(part):
    part.__class__ = Doubled


def of_a_subclass(part):
    part.weight = nn.Parameter(part.weight.detach().as_subclass(Logged))


def pruned(part):
    prune.l1_unstructured(part, "weight", 0.5)


# Changes of fc1 or fc2 in place.
OF_A_LINEAR = {
    "hook": lambda part: part.register_forward_hook(lambda module, args, output: output + 1),
    "pre-hook": lambda part: part.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "backward hook": lambda part: part.register_full_backward_hook(lambda module, grads, _: (2 * grads[0],)),
    "backward pre-hook": lambda part: part.register_full_backward_pre_hook(lambda module, grads: (2 * grads[0],)),
    "forward": with_forward,
    "subclass": doubled,
    "tensor subclass": of_a_subclass,
    "parametrization": lambda part: parametrizations.weight_norm(part),
    "pruning": pruned,
    "old weight_norm": lambda part: nn.utils.weight_norm(part),
    "old spectral_norm": lambda part: nn.utils.spectral_norm(part),
}


def replaced(name, make):
    def replace(se):
        setattr(se, name, make(getattr(se, name)))

    return replace


def on(name, change):
    return lambda se: change(getattr(se, name)) and None


def with_bias(old):
    new = nn.Linear(old.in_features, old.out_features, dtype=old.weight.dtype)
    new.weight = old.weight
    return new


def without_bias(old):
    new = nn.Linear(old.in_features, old.out_features, bias=False, dtype=old.weight.dtype)
    new.weight = old.weight
    return new


def without_statistics(old):
    return nn.BatchNorm1d(old.num_features, track_running_stats=False).double()


def untracked(se):
    se.bn.track_running_stats = False


# Of the whole gate.
DRESSED = {
    **{f"fc1: {name}": on("fc1", change) for name, change in OF_A_LINEAR.items()},
    **{f"fc2: {name}": on("fc2", change) for name, change in OF_A_LINEAR.items()},
    "bn: hook": on("bn", OF_A_LINEAR["hook"]),
    "bn: pre-hook": on("bn", OF_A_LINEAR["pre-hook"]),
    "bn: forward": on("bn", with_forward),
    "fc1: Sequential": replaced("fc1", lambda old: nn.Sequential(nn.Dropout(0.0), old)),
    "fc2: Sequential": replaced("fc2", lambda old: nn.Sequential(nn.Dropout(0.0), old)),
    "fc1: bias": replaced("fc1", with_bias),
    "fc2: no bias": replaced("fc2", without_bias),
    "bn: GroupNorm": replaced("bn", lambda old: nn.GroupNorm(1, old.num_features).double()),
    "bn: SyncBatchNorm": replaced("bn", lambda old: nn.SyncBatchNorm(old.num_features).double()),
    "bn: not affine": replaced("bn", lambda old: nn.BatchNorm1d(old.num_features, affine=False).double()),
    "bn: no statistics": replaced(
        "bn", lambda old: nn.BatchNorm1d(old.num_features, track_running_stats=False).double()
    ),
    "bn: untracked": untracked,
}


def _linear(change):
    return lambda module, *args: change(*args) if isinstance(module, nn.Linear) else None


# Hooks on every module of the process; these do something to linear layers.
GLOBAL_HOOKS = {
    "global hook": lambda: register_module_forward_hook(_linear(lambda args, output: output + 1)),
    "global pre-hook": lambda: register_module_forward_pre_hook(_linear(lambda args: (2 * args[0],))),
    "global backward hook": lambda: register_module_full_backward_hook(_linear(lambda grads, _: (2 * grads[0],))),
    "global backward pre-hook": lambda: register_module_full_backward_pre_hook(_linear(lambda grads: (2 * grads[0],))),
}


@contextmanager
def global_hook(name):
    handle = None if name is None else GLOBAL_HOOKS[name]()
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
