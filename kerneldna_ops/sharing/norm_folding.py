"""BatchNorm in eval mode, folded into the convolution in front of it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..nn._bare import is_bare
from ..nn.conv_norm import scale_and_shift
from .lone_users import is_used_alone
from .plain import ModulatedConv2d, plain_conv
from .replace import replace

Pair = tuple[str, str]  # names of a convolution and of the norm behind it


@torch.no_grad()
def fold_norms(model: nn.Module) -> None:
    """Replaces, in `model`, each convolution and BatchNorm that follows it by one convolution and an nn.Identity;
    of timm's BatchNormAct2d the activation stays.

    That is done where torch.fx can see that nothing else uses the convolution, its output or its parameters, or the
    norm, and the source of no other method shows a use of one of them alone. What it cannot follow, such as a forward
    that depends on values or was put on an instance, keeps its norms; of a model that it cannot follow as a whole, it
    looks at the parts.
    """
    for conv_name, norm_name in _pairs(model):
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        known: Any = norm
        scale, shift = scale_and_shift(norm)
        replace(model, conv_name, _scaled(conv, scale, shift))
        replace(model, norm_name, nn.Sequential(known.drop, known.act) if _is_timm(norm) else nn.Identity())


def _scaled(layer: Any, scale: Tensor, shift: Tensor) -> nn.Module:
    """scale * layer(x) + shift."""
    if isinstance(layer, ModulatedConv2d) and layer.filter is None:
        layer.conv = _scaled_conv(layer.conv, scale, shift)
    elif isinstance(layer, ModulatedConv2d):
        layer.conv, layer.bias = _scaled_conv(layer.conv, scale, None), _scaled_bias(layer, scale, shift)
    else:
        return _scaled_conv(layer, scale, shift)
    return layer


def _scaled_conv(conv: nn.Conv2d, scale: Tensor, shift: Tensor | None) -> nn.Conv2d:
    weight = (conv.weight * scale[:, None, None, None]).to(conv.weight.dtype)
    return plain_conv(conv, weight, None if shift is None else _scaled_bias(conv, scale, shift))


def _scaled_bias(layer: nn.Conv2d | ModulatedConv2d, scale: Tensor, shift: Tensor) -> nn.Parameter:
    bias = shift if layer.bias is None else layer.bias * scale + shift
    weight = layer.conv.weight if isinstance(layer, ModulatedConv2d) else layer.weight
    return nn.Parameter(bias.to(weight.dtype))


def _pairs(model: nn.Module) -> list[Pair]:
    # Tracing runs the code of the network, which may keep what it sees: in a copy, with the same tensors.
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    traced = copy.deepcopy(model, tensors)
    names = Counter(id(module) for _, module in traced.named_modules(remove_duplicate=False))
    modules = dict(traced.named_modules())
    with torch.enable_grad():  # in which conv_norm calls its two layers
        found = list(_pairs_of(traced, ""))
    found = [pair for pair in found if all(names[id(modules[name])] == 1 for name in pair)]
    return [pair for pair in found if not is_used_alone(model, *pair)]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, ModulatedConv2d) or _is_timm(module) or super().is_leaf_module(module, name)


def _pairs_of(module: nn.Module, prefix: str) -> Iterator[Pair]:
    try:
        if "forward" in module.__dict__:
            raise NotImplementedError("torch.fx follows the forward of the class")
        graph = _Tracer().trace(module)
    except Exception:  # whatever the code of a network raises when it is given something else than tensors
        for name, part in module.named_children():
            path = f"{prefix}{name}."
            # Whoever owns a plain list of modules may call them one by one, or some of them.
            if type(part) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
                for leaf, member in part.named_children():
                    yield from _pairs_of(member, f"{path}{leaf}.")
            else:
                yield from _pairs_of(part, path)
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            continue
        conv = node.args[0]
        if conv.op != "call_module" or len(conv.users) != 1:
            continue
        names = str(conv.target), str(node.target)
        once = all(calls[name] == 1 and name not in read for name in names)
        if once and _folds(*map(module.get_submodule, names)):
            yield f"{prefix}{names[0]}", f"{prefix}{names[1]}"


def _folds(conv: nn.Module, norm: nn.Module) -> bool:
    known: Any = norm
    return (
        is_bare(conv, nn.Conv2d, ModulatedConv2d)
        and (is_bare(norm, nn.BatchNorm2d, nn.SyncBatchNorm) or (_is_timm(norm) and is_bare(norm, type(norm))))
        and not known.training
        and known.running_mean is not None
    )


def _is_timm(norm: nn.Module) -> bool:
    """Whether it is the BatchNorm of timm's networks: one with `drop` and `act` behind it. Not asking timm, which may
    be missing."""
    kind = type(norm)
    return (kind.__module__, kind.__name__) == ("timm.layers.norm_act", "BatchNormAct2d")
