"""The children in a model, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..nn import ChildConv2d
from .grouping import Groups
from .options import AdapterOptions
from .parent_weight import Calibration, Weight, lowest, mean_weight, set_weight
from .replace import replace
from .report import Report


class Sharing:
    """The children that `share_kernels` put into a model, and the way back. It keeps the layers that they replaced.

    Attributes:
        model: the model that was changed.
        report: a `Report`; print it.
        mapping: the arguments with which `share_kernels` makes the same children in a fresh model, as plain data.
        children: the children by name.
        parents: the parents by name.
    """

    report: Report

    def __init__(self, model: nn.Module, groups: Groups, options: AdapterOptions) -> None:
        self.model = model
        self.mapping: dict[str, Any] = {"groups": groups, **options.plain()}
        self.parents = {name: _conv(model, name) for name in groups}
        self.children: dict[str, ChildConv2d] = {}
        self._replaced: dict[str, nn.Conv2d] = {}
        self._parents_before = {
            name: {leaf: (value.detach().clone(), value.requires_grad) for leaf, value in conv.named_parameters()}
            for name, conv in self.parents.items()
        }
        for parent, children in groups.items():
            for name in children:
                conv = self._replaced[name] = _conv(model, name)
                self.children[name] = options.child(conv, self.parents[parent])
        for name, child in self.children.items():
            replace(model, name, child)

    def undo(self) -> None:
        """Puts the replaced modules back, the very same ones, and the weights of the parents as they were, bit by bit.

        What a child or a parent has learnt since is lost; the rest of the model stays as it is. If the model has moved
        to another device or dtype, the modules are moved there too. Where nothing is shared nothing happens.

        Raises:
            RuntimeError: it has been undone already, or one of the children or parents has been replaced since.
        """
        if self.children and not self._replaced:
            raise RuntimeError("undo: it has been undone already")
        modules = dict(self.model.named_modules())
        for name, module in {**self.children, **self.parents}.items():
            if modules.get(name) is not module:
                raise RuntimeError(f"undo: layer {name!r} is no longer the module that share_kernels left there")
        for name, parent in self.parents.items():
            if dict(parent.named_parameters()).keys() != self._parents_before[name].keys():
                raise RuntimeError(f"undo: layer {name!r} no longer has the parameters that it had")
        for name, conv in self._replaced.items():
            child = self.children[name]
            weight = child.parent.weight
            replace(self.model, name, conv.to(weight.device, weight.dtype).train(child.training))
        for name, parent in self.parents.items():
            for leaf, (value, requires_grad) in self._parents_before[name].items():
                parameter = parent.get_parameter(leaf)
                with torch.no_grad():
                    parameter.copy_(value)
                parameter.grad = None
                parameter.requires_grad_(requires_grad)
        self._replaced = {}

    def freeze_parents(self) -> None:
        """The shared kernels, with the parents' biases, take no gradient any more.

        For fine-tuning of the adapters alone give the optimizer no other parameters than `adapter_parameters()`.
        """
        for parent in self.parents.values():
            parent.requires_grad_(False)

    def adapter_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the children's adapters, and the children's biases."""
        for child in self.children.values():
            yield from child.parameters()

    def __repr__(self) -> str:
        return f"Sharing({len(self.parents)} parents, {len(self.children)} children)"

    def start_from(self, weight: Weight, calibration: Calibration | None) -> dict[str, str]:
        """Gives each parent the weight to start from, and says whose it is."""
        groups: Groups = self.mapping["groups"]
        if weight == "parent":
            return {parent: parent for parent in groups}
        families = {
            parent: {parent: self.parents[parent], **{name: self._replaced[name] for name in children}}
            for parent, children in groups.items()
        }
        means = {parent: mean_weight(family.values()) for parent, family in families.items()}
        if calibration is None:
            for parent, mean in means.items():
                set_weight(self.parents[parent], mean)
            return dict.fromkeys(groups, "mean")
        chosen = {}
        for parent, family in families.items():
            weights = {name: conv.weight.detach().clone() for name, conv in family.items()}
            chosen[parent] = lowest(self.parents[parent], {**weights, "mean": means[parent]}, calibration)
        return chosen


def _conv(model: nn.Module, name: str) -> nn.Conv2d:
    conv: Any = model.get_submodule(name)
    return conv  # type: ignore[no-any-return]
