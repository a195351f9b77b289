"""Methods that use one of two layers without the other, as far as the source of their class shows it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from .weight_readers import functions_of, nodes_of


class _Uses(NamedTuple):
    """The parts of `self` that one method reads, and those of them that it calls: "conv", "blocks.0.norm"."""

    read: frozenset[str]
    called: frozenset[str]


def is_used_alone(model: nn.Module, conv: str, norm: str) -> bool:
    """Whether a method of a module around both, other than its forward, calls one of them and does not read the other.

    model.features(x), say, which returns self.conv(x). What has fuse in its name is for layers that are folded already.
    """
    parts = conv.split(".")
    for depth in range(len(parts)):
        place = ".".join(parts[:depth])
        prefix = f"{place}." if place else ""
        if norm.startswith(prefix):
            inner = conv.removeprefix(prefix), norm.removeprefix(prefix)
            if any(_is_of_one(uses, *inner) for uses in _uses(type(model.get_submodule(place)))):  # type: ignore[arg-type]
                return True
    return False


def _is_of_one(uses: _Uses, conv: str, norm: str) -> bool:
    pairs = (conv, norm), (norm, conv)
    return any(_reaches(uses.called, one) and not _reaches(uses.read, other) for one, other in pairs)


def _reaches(paths: frozenset[str], layer: str) -> bool:
    """Whether one of them is the layer, a container of it, or something in it."""
    return any(f"{layer}.".startswith(f"{path}.") or path.startswith(f"{layer}.") for path in paths)


@functools.cache
def _uses(kind: type[nn.Module]) -> tuple[_Uses, ...]:
    found = []
    for name, function in functions_of(kind):
        method = name.rpartition(".")[2]
        if method != "forward" and "fuse" not in method:
            nodes = list(nodes_of(function))
            inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute | ast.Subscript)}
            called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
            chains = [(id(node), path) for node in nodes if id(node) not in inner for path in _path(node)]
            read = frozenset(path for _, path in chains)
            found.append(_Uses(read, frozenset(path for node, path in chains if node in called)))
    return tuple(found)


def _path(node: ast.AST) -> Iterator[str]:
    """What comes behind `self`, up to an index that is no constant."""
    names: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
        elif isinstance(node.slice, ast.Constant):
            names.insert(0, str(node.slice.value))
        else:
            names.clear()
        node = node.value
    if isinstance(node, ast.Name) and node.id == "self" and names:
        yield ".".join(names)
