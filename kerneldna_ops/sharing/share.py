"""Turns layers of a trained network, or of one yet to be trained, into parents and children."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import ChildConv2d
from ..nn.adapter import Attention
from .grouping import Groups, Source, find_groups
from .options import AdapterOptions
from .parent_weight import Calibration, Loss, Weight, lowest, mean_weight, set_weight
from .report import Layer, Report
from .survey import Survey


def share_kernels(
    model: nn.Module,
    groups: Source = "position",
    *,
    batches: Iterable[Any] | None = None,
    weight: Weight = "parent",
    loss: Loss | None = None,
    filter: Attention = "static",
    spatial: Attention = "static",
    reduction: int = 4,
) -> Sharing:
    """Makes convolutions of `model` children of others of equal shape, in place: each group keeps one kernel.

    KernelDNA (arXiv 2503.23379) for any network of torch modules. A child is a `kerneldna_ops.nn.ChildConv2d` with an
    adapter that starts as the identity, so a network whose groups have equal weights computes what it did. One that was
    trained loses accuracy at first, and fine-tuning gets it back. Make the optimizer afterwards, and move the model to
    its device and dtype, compile it or wrap it for several devices afterwards too.

        sharing = kerneldna_ops.share_kernels(model)
        print(sharing.report)
        ...                              # fine-tune, save model.state_dict() and sharing.mapping
        sharing.undo()                   # the very modules and weights of before

    `share_kernels(fresh_model, **mapping)` makes the same children in a fresh model, which then loads the state_dict.
    The mapping is plain data, for a JSON file.

    What is not understood is left alone: subclasses of nn.Conv2d, parametrized, pruned, hooked, quantized or lazy
    layers, layers registered twice or with a weight that is used twice, layers whose weight the source of a module
    around them reads, and so on. The report says why; a layer that is named in `groups` is refused with the reason.
    A child takes batches [N, C, H, W] only, and in training mode at least two samples, for its squeeze-and-excitation.

    Args:
        model: any module with convolutions.
        groups: "position": neighbours of one stage (same shape, stride and dilation, names that differ in numbers
            only), in pairs whose latter is the parent, of an odd number the first three together: the published
            pattern, but wherever it fits. The published ResNets share only the 3x3 layers of their last two stages.
            "cka": by the similarity of what the layers compute on `batches` (`kerneldna_ops.analysis.suggest_groups`).
            Or {parent: [child, ...]} by names, to be made by hand or with `propose_groups`. The first two leave out
            depthwise layers, as published, and layers whose adapter would be as large as the weight that it saves.
        batches: for "cka" and for weight="measured": inputs, or tuples that start with one. "cka" streams them,
            "measured" keeps them.
        weight: what a parent and its children start from: "parent", the parent's own; "mean" of the group, which
            changes the parent too; "measured", that of the layers' weights and their mean that gives the lowest loss,
            one group after the other.
        loss: loss(model, batch) for "measured"; None: the mean squared difference to what the model gave before.
        filter, spatial: attention of the adapters, "static", "dynamic" (per sample) or None; 1x1 kernels have no
            spatial attention.
        reduction: the squeeze-and-excitations have min(C_in, C_out) // reduction hidden features. 4 as published.

    Raises:
        TypeError, ValueError: an argument does not fit, the model is scripted, compiled or wrapped, or a named layer
            cannot be shared. The model is as it was.
    """
    survey = Survey(model, "share_kernels")
    options = AdapterOptions(filter, spatial, reduction)
    if weight not in ("parent", "mean", "measured"):
        raise ValueError(f"share_kernels: weight must be 'parent', 'mean' or 'measured', got {weight!r}")
    if weight == "measured" and batches is not None and not isinstance(batches, Tensor):
        batches = list(batches)
    found, reasons = find_groups(survey, groups, batches, options)
    calibration = Calibration(model, batches, loss) if weight == "measured" else None

    before = _sizes(survey.convolutions)
    sharing = Sharing(model, found, options)
    try:
        weights = sharing._set_weights(weight, calibration)
    except BaseException:
        sharing.undo()
        raise
    sharing.report = _report(survey, sharing, before, weights, reasons)
    return sharing


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
        self.mapping: dict[str, Any] = {"groups": groups, **vars(options)}
        self.parents: dict[str, nn.Conv2d] = {}
        self.children: dict[str, ChildConv2d] = {}
        self._replaced: dict[str, nn.Conv2d] = {}
        self._parameters_before = _count(model)
        for parent in groups:
            self.parents[parent] = _conv(model, parent)
        self._parents_before = {
            name: {leaf: (value.detach().clone(), value.requires_grad) for leaf, value in conv.named_parameters()}
            for name, conv in self.parents.items()
        }
        for parent, children in groups.items():
            for name in children:
                conv = self._replaced[name] = _conv(model, name)
                self.children[name] = options.child(conv, self.parents[parent])
        for name, child in self.children.items():
            _put(model, name, child)

    def undo(self) -> None:
        """Puts the replaced modules back, the very same ones, and the weights of the parents as they were, bit by bit.

        What a child or a parent has learnt since is lost; the rest of the model stays as it is. If the model has moved
        to another device or dtype, the modules are moved there too.

        Raises:
            RuntimeError: it has been undone already, or one of the children or parents has been replaced since.
        """
        if not self._replaced:
            raise RuntimeError("undo: no layer is shared, or it has been undone already")
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
            _put(self.model, name, conv.to(weight.device, weight.dtype).train(child.training))
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

    def _set_weights(self, weight: Weight, calibration: Calibration | None) -> dict[str, str]:
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


def _report(
    survey: Survey, sharing: Sharing, before: dict[str, int], weights: dict[str, str], reasons: dict[str, str]
) -> Report:
    parents = {child: parent for parent, children in sharing.mapping["groups"].items() for child in children}
    layers = []
    for name, module in survey.convolutions.items():
        role = "child" if name in parents else "parent" if name in weights else "own"
        layers.append(
            Layer(
                name,
                _shape(module),
                role,
                before[name],
                _count(sharing.children[name]) if role == "child" else before[name],
                parents.get(name),
                weights.get(name),
                reasons.get(name),
            )
        )
    return Report(tuple(layers), sharing._parameters_before, _count(sharing.model))


def _shape(module: nn.Module) -> tuple[int, ...] | None:
    weight = module.parent.weight if isinstance(module, ChildConv2d) else getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) and not nn.parameter.is_lazy(weight) else None


def _sizes(modules: dict[str, nn.Module]) -> dict[str, int]:
    return {name: _count(module) for name, module in modules.items()}


def _count(module: nn.Module) -> int:
    return sum(0 if nn.parameter.is_lazy(parameter) else parameter.numel() for parameter in module.parameters())


def _conv(model: nn.Module, name: str) -> nn.Conv2d:
    conv: Any = model.get_submodule(name)
    return conv  # type: ignore[no-any-return]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
