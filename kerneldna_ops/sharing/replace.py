"""Modules of a model exchanged by name."""

from torch import nn


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts `module` where `name` is in `model`, at the same place in the order of registration."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
