"""Which layers could share a kernel: those of one shape whose features are alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations
from math import fsum

from torch import nn

from ..nn import ChildConv2d
from .similarity import CKA


def suggest_groups(
    similarity: CKA, model: nn.Module, threshold: float = 0.9, max_size: int = 4
) -> dict[str, list[str]]:
    """Groups of convolutions that could share one kernel, as {parent: [child, ...]}, by names of modules of `model`.

    The candidates are the layers in `similarity` that are nn.Conv2d, not of a derived class, and that no ChildConv2d
    borrows from yet; those with weights of one shape, dtype and device and equal `groups` belong together. They are
    clustered from the bottom up with complete linkage: at first every layer is alone, and again and again the two
    clusters are joined whose least similar pair of layers is the most similar, while that pair has a CKA of at least
    `threshold` and the two together at most `max_size` layers. So in a group every layer is that similar to every
    other. The parent is the layer with the highest mean CKA to the others. Of equals the one that runs first wins, so
    the same matrix always gives the same groups. Layers that nothing is similar enough to are in no group, nor are
    those without a CKA. Whether an adapter is smaller than the kernel that it saves is not looked at.

    Args:
        similarity: CKA within `model`, from `cka`. Of a layer that runs several times, the first run counts.
        model: the network that it was taken of.
        threshold: between 0 and 1.
        max_size: the most layers that share a kernel, the parent included, at least 2.

    Returns:
        Parents in the order in which they run, children too. It is what `kerneldna_ops.share_kernels` takes as groups.

    Raises:
        ValueError: `similarity` is across two networks or of another model, or a number is out of range.
    """
    check_limits(threshold, max_size)
    if similarity.columns != similarity.names:
        raise ValueError("suggest_groups: similarity must be within one network, got one across two networks")
    matrix = similarity.matrix.tolist()
    by_shape: dict[Hashable, list[int]] = {}
    for index, shape in _shapes(similarity, model).items():
        by_shape.setdefault(shape, []).append(index)
    clusters = [cluster for same in by_shape.values() for cluster in _clusters(same, matrix, threshold, max_size)]

    groups: dict[int, list[int]] = {}
    for cluster in clusters:
        parent = max(cluster, key=lambda one: fsum(matrix[one][other] for other in cluster if other != one))
        groups[parent] = [child for child in cluster if child != parent]
    names = similarity.names
    return {names[parent]: [names[child] for child in groups[parent]] for parent in sorted(groups)}


def check_limits(threshold: float, max_size: int) -> None:
    """Raises the ValueError of `suggest_groups` for these two."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"suggest_groups: threshold must be between 0 and 1, got {threshold}")
    if max_size < 2:
        raise ValueError(f"suggest_groups: max_size must be at least 2, got {max_size}")


def _shapes(similarity: CKA, model: nn.Module) -> dict[int, Hashable]:
    """For the rows of candidates: what their kernels must have in common to be shared."""
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    parents = {id(module.parent) for module in modules.values() if isinstance(module, ChildConv2d)}
    shapes: dict[int, Hashable] = {}
    for index, name in enumerate(similarity.names):
        module = modules.get(name)
        if module is None and name.rsplit("#", 1)[0] not in modules:
            raise ValueError(f"suggest_groups: similarity has a layer {name!r}, which {type(model).__name__} has not")
        if type(module) is nn.Conv2d and id(module) not in parents:
            weight = module.weight
            shapes[index] = weight.shape, weight.dtype, weight.device, module.groups
    return shapes


def _clusters(layers: list[int], matrix: list[list[float]], threshold: float, max_size: int) -> list[list[int]]:
    """The clusters of at least two layers, each in ascending order."""
    clusters = [[layer] for layer in layers]
    while True:
        best, joined = threshold, None
        for first, second in combinations(range(len(clusters)), 2):
            if len(clusters[first]) + len(clusters[second]) > max_size:
                continue
            least = min(matrix[one][other] for one in clusters[first] for other in clusters[second])
            if least > best or (least == best and joined is None):
                best, joined = least, (first, second)
        if joined is None:
            return [cluster for cluster in clusters if len(cluster) > 1]
        first, second = joined
        clusters[first] = sorted(clusters[first] + clusters.pop(second))
