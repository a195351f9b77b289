"""Turns layers of a trained network, or of one yet to be trained, into parents and children."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..nn import ChildConv2d
from ..nn._checks import Norm
from ..nn.adapter import Attention
from .grouping import Source, find_groups
from .options import AdapterOptions
from .parent_weight import Calibration, Loss, Weight
from .report import Layer, Report, count
from .sharing import Sharing
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
    norm_layer: Norm | None = nn.BatchNorm1d,
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
    The mapping is plain data, for a JSON file; a `norm_layer` other than the default has to be given again.

    What is not understood is left alone: subclasses of nn.Conv2d, parametrized, pruned, hooked, quantized or lazy
    layers, layers registered twice or with a weight that is used twice, layers whose weight the source of a module
    around them reads, and so on. The report says why; a layer that is named in `groups` is refused with the reason.
    A child takes batches [N, C, H, W] only, and in training mode at least two samples, unless `norm_layer` is another.

    Args:
        model: any module with convolutions.
        groups: "position": neighbours of one stage (same shape, stride, dilation and requires_grad, names that differ
            in numbers only), in pairs whose latter is the parent, of an odd number the first three together: the
            published pattern, but wherever it fits. The published ResNets share only the 3x3 layers of their last two
            stages.
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
        norm_layer: the norm inside them, as of `kerneldna_ops.nn.SqueezeExcite`: nn.BatchNorm1d as published,
            nn.LayerNorm or None where a batch may be one sample.

    Raises:
        TypeError, ValueError: an argument does not fit, the model is scripted, compiled or wrapped, or a named layer
            cannot be shared. The model is as it was.
    """
    survey = Survey(model, "share_kernels")
    options = AdapterOptions(filter, spatial, reduction, norm_layer)
    if weight not in ("parent", "mean", "measured"):
        raise ValueError(f"share_kernels: weight must be 'parent', 'mean' or 'measured', got {weight!r}")
    if batches is not None and weight != "measured" and groups != "cka":
        raise ValueError("share_kernels: batches are for groups='cka' and weight='measured' only")
    if loss is not None and weight != "measured":
        raise ValueError(f"share_kernels: loss is for weight='measured' only, got weight={weight!r}")
    if loss is not None and not callable(loss):
        raise TypeError(f"share_kernels: loss must be a function of (model, batch), got {type(loss).__name__}")
    if weight == "measured" and batches is not None and not isinstance(batches, Tensor):
        batches = list(batches)
    found, reasons = find_groups(survey, groups, batches, options)
    calibration = Calibration(model, batches, loss) if weight == "measured" else None

    before = {name: count(layer) for name, layer in survey.convolutions.items()}
    total = count(model)
    sharing = Sharing(model, found, options)
    try:
        weights = sharing.start_from(weight, calibration)
    except BaseException:
        sharing.undo()
        raise
    layers = _layers(survey, sharing, before, weights, reasons)
    sharing.report = Report(layers, total, count(model), _notes(survey, sharing))
    return sharing


def _layers(
    survey: Survey,
    sharing: Sharing,
    before: Mapping[str, int],
    weights: Mapping[str, str],
    reasons: Mapping[str, str],
) -> tuple[Layer, ...]:
    parents = {child: parent for parent, children in sharing.mapping["groups"].items() for child in children}
    layers = []
    for name, module in survey.convolutions.items():
        kernel = _kernel(module)
        role = "child" if name in parents else "parent" if name in weights else "own"
        layers.append(
            Layer(
                name,
                None if kernel is None else tuple(kernel.shape),
                role,
                before[name],
                count(sharing.children[name]) if role == "child" else before[name],
                parents.get(name),
                weights.get(name),
                reasons.get(name),
                frozen=kernel is not None and not kernel.requires_grad,
            )
        )
    return tuple(layers)


def _kernel(module: nn.Module) -> Tensor | None:
    """The weight that a convolution uses, where it has one to show."""
    weight = module.parent.weight if isinstance(module, ChildConv2d) else getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and not nn.parameter.is_lazy(weight) else None


def _notes(survey: Survey, sharing: Sharing) -> tuple[str, ...]:
    shared = (*sharing.parents, *sharing.children)
    notes = [
        f"{method} would read the weights of children, which have none: kerneldna_ops.materialize folds norms instead"
        for method in dict.fromkeys(method for name in shared for method in survey.folded_by(name))
    ]
    # Another gets a bias by that, which its children notice.
    with_bias = [name for name, parent in sharing.parents.items() if parent.bias is not None]
    if names := [name for name in with_bias if _is_before_a_norm(survey.model, name)]:
        notes.append(
            f"children would not notice a norm that is folded into the weight of {', '.join(names)}, by a tool that"
            " finds layers by their class: kerneldna_ops.materialize folds norms instead"
        )
    return tuple(notes)


def _is_before_a_norm(model: nn.Module, name: str) -> bool:
    """Whether what is registered right behind this layer is a BatchNorm, as such tools look for it."""
    around, _, own = name.rpartition(".")
    parts = dict(model.get_submodule(around).named_children())
    following = list(parts)[list(parts).index(own) + 1 :] if own in parts else []
    return bool(following) and isinstance(parts[following[0]], nn.BatchNorm2d | nn.SyncBatchNorm)
