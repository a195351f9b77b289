"""The convolutions of a model, and why one of them had better be left alone."""

from __future__ import annotations

import contextlib
import difflib
import gc
import types
import weakref
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import ChildConv2d
from .weight_readers import folders_of_norms, reader_of_weight

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# What leads to everything, or to no module.
_ENDS = (Tensor, type, str, types.ModuleType, types.CodeType, types.FrameType)
# By name of the class, because most of these would have to be imported first.
_WRAPPERS = {
    "ScriptModule": "a torch.jit.ScriptModule",
    "GraphModule": "a torch.fx.GraphModule",
    "OptimizedModule": "compiled by torch.compile",
    "DataParallel": "wrapped in DataParallel",
    "DistributedDataParallel": "wrapped in DistributedDataParallel",
    "FullyShardedDataParallel": "sharded by FSDP",
    "FSDPModule": "sharded by FSDP",
}


class Survey:
    """What of a model can share kernels. It is taken once: changes of the model afterwards are not seen.

    Attributes:
        convolutions: everything that looks like a convolution, children included, by its (first) name.
        objections: for each of these that must not be touched, why: a sentence without its subject.

    Raises:
        TypeError: the model is no nn.Module.
        ValueError: the model as a whole is out of reach: scripted, traced by fx, compiled, or wrapped for several
            devices.
    """

    def __init__(self, model: nn.Module, asking: str) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"{asking}: model must be a torch.nn.Module, got {type(model).__name__}")
        if (wrapper := wrapper_of(model)) is not None:
            raise ValueError(f"{asking}: model must be a network as it was built, got one that is {wrapper}")
        self.model = model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self._names: dict[int, list[str]] = {}
        for name, module in self.modules.items():
            self._names.setdefault(id(module), []).append(name)
        self._weights = _names_of_parameters(model)
        self._holders = _holders(model)
        self.convolutions = {name: module for name, module in model.named_modules() if _is_convolution(module)}
        reasons = {name: self.objection(name) for name in self.convolutions}
        self.objections = {name: reason for name, reason in reasons.items() if reason is not None}

    def eligible(self) -> dict[str, nn.Conv2d]:
        """The convolutions that nothing speaks against."""
        return {name: self.conv(name) for name in self.convolutions if name not in self.objections}

    def conv(self, name: str) -> nn.Conv2d:
        conv: Any = self.modules[name]
        return conv  # type: ignore[no-any-return]

    def folded_by(self, name: str) -> list[str]:
        """The methods of the modules around a layer that would fold a norm into it, and cannot where it is shared."""
        places = _ancestors(name)
        return [method for place, part in places for method in folders_of_norms(type(self.modules[place]), part)]

    def check_name(self, name: str, asking: str) -> None:
        """Raises a ValueError unless this is a layer that can share its kernel."""
        if name not in self.modules:
            close = difflib.get_close_matches(str(name), self.convolutions)
            hint = f", did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"{asking}: {type(self.model).__name__} has no layer {name!r}{hint}")
        if (reason := self.objection(name)) is not None:
            raise ValueError(f"{asking}: layer {name!r} {reason}")

    def objection(self, name: str) -> str | None:
        """Why the module of this name must not be touched, as a sentence without its subject; None if it may."""
        module = self.modules[name]
        if not name:
            return "is the model itself, which has no place to be put back to"
        if (reason := _is_not_plain(module)) is not None:
            return reason
        if len(names := self._names[id(module)]) > 1:
            return f"is registered more than once, as {' and '.join(names)}"
        weight: Any = module.weight
        if len(users := self._weights[_identity(weight)]) > 1:
            return f"has a weight that is registered more than once, as {' and '.join(users)}"
        if (holder := self._holders.get(id(module))) is not None:
            return holder
        for place, relative in _ancestors(name):
            ancestor = self.modules[place]
            if (wrapper := wrapper_of(ancestor)) is not None:
                return f"is part of {place!r}, which is {wrapper}"
            if (reader := reader_of_weight(type(ancestor), relative)) is not None:
                return f"has a weight that {reader} reads, which a child has not"
        return None


def wrapper_of(module: nn.Module) -> str | None:
    """What keeps the parts of this module from being replaced, if anything."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.") and kind.__name__ in _WRAPPERS:
            return _WRAPPERS[kind.__name__]
    return "compiled by torch.compile" if module._compiled_call_impl is not None else None


def _ancestors(name: str) -> Iterator[tuple[str, str]]:
    """The names of the modules that contain this one, the model first, and the name that this one has in each."""
    parts = name.split(".")
    for depth in range(len(parts)):
        yield ".".join(parts[:depth]), ".".join(parts[depth:])


def _is_convolution(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("in_channels", "out_channels", "kernel_size"))


def _is_not_plain(module: nn.Module) -> str | None:
    """Why the module is not exactly what torch.nn.Conv2d makes, if it is not."""
    if isinstance(module, ChildConv2d):
        return "is a child already"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "is lazy and has no shape yet: run the model once first"
    held = {**module._parameters, **module._buffers, **module._modules}
    extra = sorted(held.keys() - {"weight", "bias"})
    if isinstance(module, nn.Conv2d) and (extra or "weight" not in module._parameters):
        return f"has {', '.join(extra) or 'no parameter'} in place of a weight: weight norm, spectral norm or pruning"
    if type(module) is not nn.Conv2d:
        return f"is a {type(module).__module__}.{type(module).__qualname__}, not exactly a torch.nn.Conv2d"
    if "forward" in module.__dict__ or "_conv_forward" in module.__dict__:
        return "has a forward of its own"
    if (wrapper := wrapper_of(module)) is not None:
        return f"is {wrapper}"
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks):
        return "has hooks"
    return _is_not_plain_tensor(module.weight)


def _is_not_plain_tensor(weight: Any) -> str | None:
    if type(weight) is not nn.Parameter or type(weight.data) is not Tensor:
        return f"has a weight that is a {type(weight).__name__}, not a plain torch.nn.Parameter"
    if weight._backward_hooks or weight._post_accumulate_grad_hooks:
        return "has a weight with hooks"
    if weight.dtype not in _DTYPES:
        return f"has a weight of {str(weight.dtype).removeprefix('torch.')}, which has no dynamic convolution"
    return None


def _identity(parameter: Tensor) -> tuple[str, int]:
    """What two parameters have in common when they are one, or when they are two over the same memory."""
    if type(parameter) is nn.Parameter and parameter.device.type != "meta" and parameter.data_ptr():
        return "address", parameter.data_ptr()
    return "object", id(parameter)


def _names_of_parameters(model: nn.Module) -> dict[tuple[str, int], list[str]]:
    names: dict[tuple[str, int], list[str]] = {}
    for name, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(_identity(parameter), []).append(f"{name}.{leaf}" if name else leaf)
    return names


def _holders(model: nn.Module) -> dict[int, str]:
    """Modules that other modules refer to without registering them: replaced in the model, they would be called on."""
    holders: dict[int, str] = {}
    registered = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute == "_modules":
                continue
            child = isinstance(module, ChildConv2d) and attribute == "parent"
            path = f"{name}.{attribute}" if name else attribute
            sentence = f"is the parent of {name} already" if child else f"is also referred to as {path}"
            for found in _reached(value, registered):
                holders.setdefault(found, sentence)
    return holders


def _reached(value: Any, registered: Collection[int]) -> Iterator[int]:
    """The ids of the registered modules that a value leads to: through lists, dicts and the like, however deep, through
    functions, partials, bound methods, weak references and other objects, but not through another registered module."""
    seen: set[int] = set()
    items = [value]
    while items:
        item = items.pop()
        if id(item) in registered:
            yield id(item)
        elif id(item) not in seen and not isinstance(item, _ENDS):
            seen.add(id(item))
            if isinstance(item, types.FunctionType):
                items += _variables(item)
            elif isinstance(item, weakref.ref):
                items.append(item())
            else:
                items += gc.get_referents(item)


def _variables(function: types.FunctionType) -> Iterator[Any]:
    """The values that a function brings along, and the modules among the global variables that it names."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # one that is not filled yet
            yield cell.cell_contents
    yield function.__defaults__
    yield function.__kwdefaults__
    yield function.__dict__
    for name in function.__code__.co_names:
        if isinstance(value := function.__globals__.get(name), nn.Module):
            yield value
