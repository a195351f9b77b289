"""Which layer becomes whose child: by position, by the similarity of features, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeAlias

from torch import nn

from ..analysis import cka, suggest_groups
from ..analysis.similarity import Batches
from ..nn.adapter import Attention
from .options import AdapterOptions
from .survey import Survey

Groups: TypeAlias = dict[str, list[str]]  # parent -> children
Source: TypeAlias = Literal["position", "cka"] | Mapping[str, Sequence[str]]


def propose_groups(
    model: nn.Module,
    by: Literal["position", "cka"] = "position",
    *,
    batches: Batches | None = None,
    filter: Attention = "static",
    spatial: Attention = "static",
    reduction: int = 4,
) -> Groups:
    """The groups that `share_kernels(model, by, ...)` would make, as {parent: [child, ...]}, to be read and changed.

    The arguments are those of `share_kernels`, which also says what it raises. The model is left as it is.
    """
    if by not in ("position", "cka"):
        raise ValueError(f"propose_groups: by must be 'position' or 'cka', got {by!r}")
    if batches is not None and by != "cka":
        raise ValueError("propose_groups: batches are for by='cka' only")
    survey = Survey(model, "propose_groups")
    return find_groups(survey, by, batches, AdapterOptions(filter, spatial, reduction))[0]


def find_groups(
    survey: Survey, source: Source, batches: Batches | None, options: AdapterOptions
) -> tuple[Groups, dict[str, str]]:
    """The groups, and for each other convolution the reason why it is in none."""
    if isinstance(source, str):
        if source not in ("position", "cka"):
            raise ValueError(
                f"share_kernels: groups must be 'position', 'cka' or {{parent: [child, ...]}}, got {source!r}"
            )
        worthwhile, reasons = _worthwhile(survey, options)
        if source == "position":
            groups = _by_position(worthwhile)
            rest = "has no other layer of its shape, stride and requires_grad in its stage"
        else:
            groups, rest = _by_similarity(survey, worthwhile, batches), "is not similar enough to a layer of its shape"
    else:
        groups, reasons, rest = _as_given(survey, source), dict(survey.objections), "is in none of the groups"
    grouped = {name for parent, children in groups.items() for name in (parent, *children)}
    return groups, {name: reasons.get(name, rest) for name in survey.convolutions if name not in grouped}


def _worthwhile(survey: Survey, options: AdapterOptions) -> tuple[dict[str, nn.Conv2d], dict[str, str]]:
    """The layers that gain from sharing, and the reasons against the others."""
    layers, reasons = survey.eligible(), dict(survey.objections)
    for name, conv in layers.items():
        if conv.groups > 1 and conv.groups == conv.in_channels:
            reasons[name] = "is depthwise: shared only if named"
        elif (size := options.size(conv)) >= conv.weight.numel():
            reasons[name] = f"would save {conv.weight.numel():,} parameters for an adapter of {size:,}"
    return {name: conv for name, conv in layers.items() if name not in reasons}, reasons


def _kernel(conv: nn.Conv2d) -> Hashable:
    """What a parent and its children must have in common."""
    weight = conv.weight
    return tuple(weight.shape), conv.groups, weight.dtype, weight.device, weight.requires_grad


def _by_position(layers: Mapping[str, nn.Conv2d]) -> Groups:
    """Neighbours of one stage: pairs, of an odd number the first three, the last of each being the parent.

    That is the pattern of the published networks: the five equal layers of a stage of ResNet-18 are child, child,
    parent, child, parent. A stage is what has the same shape, stride, dilation and requires_grad, and names that are
    equal up to the first number between dots, and behind it but for numbers: "layer3.0.conv2" and "layer3.1.conv1", but
    neither "layer4.0.conv2" nor "layer3.0.downsample.0". Without a number between dots, they are equal up to the first
    part that ends in one, if such a part stands behind it: "denseblock1.denselayer1.conv2" and
    "denseblock1.denselayer2.conv2".
    """
    stages: dict[Hashable, list[str]] = {}
    for name, conv in layers.items():
        stages.setdefault((*_stage(name), _kernel(conv), conv.stride, conv.dilation), []).append(name)
    groups: Groups = {}
    for names in stages.values():
        while len(names) > 1:
            size = 2 + len(names) % 2
            *children, parent = names[:size]
            groups[parent], names = children, names[size:]
    order = list(layers)
    return {parent: groups[parent] for parent in sorted(groups, key=order.index)}


def _stage(name: str) -> tuple[str, str]:
    first = re.search(r"(?:^|\.)\d+(?=\.|$)", name) or re.search(r"(?<=\d)(?=\..*\d\.)", name)
    split = first.start() if first else 0
    return name[:split], re.sub(r"\d+", "", name[split:])


def _by_similarity(survey: Survey, layers: Mapping[str, nn.Conv2d], batches: Batches | None) -> Groups:
    if batches is None:
        raise ValueError("share_kernels: groups='cka' needs batches of inputs, got none")
    if len(layers) < 2:
        return {}
    similarity = cka(survey.model, batches, lambda name, module: name in layers)
    groups: Groups = {}
    for parent, children in suggest_groups(similarity, survey.model).items():
        alike = [child for child in children if _kernel(layers[child]) == _kernel(layers[parent])]
        if alike:
            groups[parent] = alike
    return groups


def _as_given(survey: Survey, given: Mapping[str, Sequence[str]]) -> Groups:
    """The user's groups, checked before anything is changed."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"share_kernels: groups must be 'position', 'cka' or {{parent: [child, ...]}}, got {type(given).__name__}"
        )
    seen: set[str] = set()
    for parent, children in given.items():
        if isinstance(children, str) or not isinstance(children, Sequence) or not children:
            raise ValueError(
                f"share_kernels: groups[{parent!r}] must be a list of the names of children, got {children!r}"
            )
        for name in (parent, *children):
            survey.check_name(name, "share_kernels")
            if name in seen:
                raise ValueError(f"share_kernels: layer {name!r} is named twice in groups")
            seen.add(name)
            conv, owner = survey.conv(name), survey.conv(parent)
            if _kernel(conv) != _kernel(owner):
                raise ValueError(
                    f"share_kernels: layer {name!r} ({_describe(conv)}) cannot be a child of {parent!r}"
                    f" ({_describe(owner)}): their kernels differ"
                )
    return {parent: list(children) for parent, children in given.items()}


def _describe(conv: nn.Conv2d) -> str:
    weight = conv.weight
    dtype = str(weight.dtype).removeprefix("torch.")
    trained = "" if weight.requires_grad else ", frozen"
    return f"{list(weight.shape)}, groups={conv.groups}, {dtype}, {weight.device}{trained}"
