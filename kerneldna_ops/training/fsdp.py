"""Fully sharded data parallelism (FSDP2) for networks whose layers share kernels."""

from __future__ import annotations

from collections import defaultdict

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from ..nn import ChildConv2d

Path = tuple[str, ...]


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard the model in place, a unit at a time, so that every parameter is whole wherever a layer reads it.

    FSDP makes the parameters of a unit whole while that unit runs, and only then. A child convolution reads its
    parent's weight, so both must lie in one unit: the units are the smallest modules that contain a parent together
    with all its children (or all places of a module that stands in several), and the whole model for the rest.

    Raises:
        ValueError: the parent of a child is no part of the model, or the parameters have several dtypes.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()})
    if len(dtypes) > 1:
        raise ValueError(f"fsdp: expected parameters of one dtype, got {' and '.join(dtypes)}")
    for name in sorted(units(model), key=lambda name: -len(_path(name))):
        fully_shard(model.get_submodule(name), mesh=mesh)
    # By default the outermost unit would stay whole after a forward pass, until the backward pass that may never come.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    if mesh.device_type == "cpu":
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)  # gloo has no mean
    return model


def units(model: nn.Module) -> list[str]:
    """The names of the modules to shard besides the model itself: see `shard`."""
    families = _families(model)
    candidates = {_with_forward(model, _common(readers)) for _, readers in families}
    return sorted(
        ".".join(unit)
        for unit in candidates - {()}
        if not any(
            any(_within(path, unit) for path in homes) and not all(_within(path, unit) for path in readers)
            for homes, readers in families
        )
    )


def _families(model: nn.Module) -> list[tuple[list[Path], list[Path]]]:
    """Of each parameter that is read in several places: where it is registered, and all of the places."""
    homes: dict[nn.Parameter, list[Path]] = defaultdict(list)
    borrowed: dict[nn.Parameter, list[Path]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            homes[parameter].append(_path(name))
        if isinstance(module, ChildConv2d):
            borrowed[module.parent.weight].append(_path(name))  # type: ignore[index]
    for parameter, children in borrowed.items():
        if parameter not in homes:
            raise ValueError(f"fsdp: the parent of {'.'.join(children[0])} must be a part of the model to be sharded")
    families = [(places, places + borrowed[parameter]) for parameter, places in homes.items()]
    return [(places, readers) for places, readers in families if len(readers) > 1]


def _with_forward(model: nn.Module, path: Path) -> Path:
    """The innermost module around `path`, or there, that can be called as a whole: ModuleList and the like cannot."""
    while type(model.get_submodule(".".join(path))).forward is nn.Module.forward:
        path = path[:-1]
    return path


def _path(name: str) -> Path:
    return tuple(name.split(".")) if name else ()


def _within(path: Path, unit: Path) -> bool:
    return path[: len(unit)] == unit


def _common(paths: list[Path]) -> Path:
    common = paths[0]
    while not all(_within(path, common) for path in paths):
        common = common[:-1]
    return common
