"""Code that reads the weight of a layer instead of calling the layer, as far as the source of its network shows it.

Examples are RepVGG's reparametrisation and a decoder that runs on the encoder's weight. A child has no weight to read.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn


class _Read(NamedTuple):
    """`self.path.weight`, or `other.path.weight` of something else than self, in a method."""

    method: str
    of_self: bool
    path: str


def reader_of_weight(kind: type[nn.Module], relative: str) -> str | None:
    """The method of a class of modules that reads the weight of its part `relative` ("stem.conv"), if one does.

    `self.stem.conv.weight` and, of a list, `self.stem[0].weight` are found, `branch.conv.weight` wherever the names end
    alike. What only initialises (methods with init or reset in the name) does not count.
    """
    for read in _reads(kind):  # type: ignore[arg-type]  # a class is hashable
        if read.of_self and (relative == read.path or relative.startswith(f"{read.path}.")):
            return read.method
        if not read.of_self and f".{relative}".endswith(f".{read.path}"):
            return read.method
    return None


@functools.cache
def _reads(kind: type[nn.Module]) -> tuple[_Read, ...]:
    found: list[_Read] = []
    for base in kind.__mro__:
        if base.__module__.split(".")[0] not in ("torch", "builtins", "typing"):
            for name, method in vars(base).items():
                if "init" not in name and "reset" not in name:
                    found += _reads_of_method(f"{base.__name__}.{name}", method)
    return tuple(found)


def _reads_of_method(name: str, method: Any) -> Iterator[_Read]:
    function = method.fget if isinstance(method, property) else inspect.unwrap(getattr(method, "__func__", method))
    if not inspect.isfunction(function):
        return
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # typed at a prompt, or a lambda in the middle of an expression
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "weight" and isinstance(node.ctx, ast.Load):
            base, path = _owner(node.value)
            if path:
                yield _Read(name, base == "self", path)


def _owner(node: ast.expr) -> tuple[str | None, str]:
    """The variable that a chain of attributes and indices starts with, and the names of the attributes."""
    names: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
        node = node.value
    return node.id if isinstance(node, ast.Name) else None, ".".join(names)
