"""Code that reads the weight of a layer instead of calling the layer, as far as the source of its network shows it.

Examples are RepVGG's reparametrisation and a decoder that runs on the encoder's weight. A child has no weight to read.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple, TypeGuard

from torch import nn


class _Read(NamedTuple):
    """`self.path.weight`, or `other.path.weight` of something else than self, in a method, or in a function to which
    the method gives `self.path`."""

    reader: str
    of_self: bool
    path: str
    on_demand: bool

    def reaches(self, relative: str) -> bool:
        if self.of_self:
            return relative == self.path or relative.startswith(f"{self.path}.")
        return f".{relative}".endswith(f".{self.path}")


def reader_of_weight(kind: type[nn.Module], relative: str) -> str | None:
    """The method of a class of modules that reads the weight of its part `relative` ("stem.conv"), if one does.

    `self.stem.conv.weight` and, of a list, `self.stem[0].weight` are found, `branch.conv.weight` wherever the names end
    alike; and `function(self.stem.conv)`, where that function reads the weight of its argument, or gives it to one that
    does. What only initialises (methods with init or reset in the name) does not count, nor what `folders_of_norms`
    finds.
    """
    reads = _reads(kind)  # type: ignore[arg-type]  # a class is hashable
    return next((read.reader for read in reads if not read.on_demand and read.reaches(relative)), None)


def folders_of_norms(kind: type[nn.Module], relative: str) -> list[str]:
    """The methods with fuse in their name that give the part `relative` to a function that reads its weight.

    Nobody calls them in training: `fuse` of YOLO's networks, which folds each BatchNorm by fuse_conv_and_bn.
    """
    reads = _reads(kind)  # type: ignore[arg-type]
    return [read.reader for read in reads if read.on_demand and read.reaches(relative)]


@functools.cache
def _reads(kind: type[nn.Module]) -> tuple[_Read, ...]:
    return tuple(read for name, function in functions_of(kind) for read in _reads_of_method(name, function))


def functions_of(kind: type[nn.Module]) -> Iterator[tuple[str, types.FunctionType]]:
    """The methods and properties of a class of modules that are not torch's and do more than initialise."""
    for base in kind.__mro__:
        for name, method in vars(base).items() if not _is_torchs(base) else ():
            function = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
            function = inspect.unwrap(function) if callable(function) else function
            if "init" not in name and "reset" not in name and inspect.isfunction(function):
                yield f"{base.__name__}.{name}", function


def _reads_of_method(name: str, function: types.FunctionType) -> Iterator[_Read]:
    for node in nodes_of(function):
        if _is_weight(node):
            base, path = _owner(node.value)
            if path:
                yield _Read(name, base == "self", path, False)
        elif isinstance(node, ast.Call):
            for argument in _read_arguments(function, node):
                base, path = _owner(argument)
                if path:
                    by = f"{name}, by {ast.unparse(node.func)},"
                    yield _Read(by, base == "self", path, "fuse" in name.rpartition(".")[2])


def _read_arguments(function: types.FunctionType, call: ast.Call, depth: int = 3) -> Iterator[ast.expr]:
    """Of a call in a function, the arguments whose weights the called function reads."""
    called: Any = None
    if isinstance(call.func, ast.Name):
        called = function.__globals__.get(call.func.id)
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        called = getattr(function.__globals__.get(call.func.value.id), call.func.attr, None)
    if inspect.isfunction(called) and depth and not _is_torchs(called):
        read = _read_parameters(called, depth)
        by_place = zip(inspect.signature(called).parameters, call.args, strict=False)
        by_name = ((keyword.arg, keyword.value) for keyword in call.keywords)
        yield from (argument for parameter, argument in chain(by_place, by_name) if parameter in read)


@functools.cache
def _read_parameters(function: types.FunctionType, depth: int) -> set[str | None]:
    """The parameters whose weights a function reads, or gives to a function that does."""
    read: set[str | None] = set()
    for node in nodes_of(function):
        if _is_weight(node):
            found = [node.value]
        else:
            found = list(_read_arguments(function, node, depth - 1)) if isinstance(node, ast.Call) else []
        read |= {base for base, path in map(_owner, found) if not path}
    return read


def _is_torchs(code: type | types.FunctionType) -> bool:
    return code.__module__.split(".")[0] in ("torch", "builtins", "typing")


def nodes_of(function: types.FunctionType) -> Iterator[ast.AST]:
    """Of its source, if that can be had."""
    try:
        return ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, SyntaxError):  # typed at a prompt, or a lambda in the middle of an expression
        return iter(())


def _is_weight(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and node.attr == "weight" and isinstance(node.ctx, ast.Load)


def _owner(node: ast.expr) -> tuple[str | None, str]:
    """The variable that a chain of attributes and indices starts with, and the names of the attributes."""
    names: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
        node = node.value
    return node.id if isinstance(node, ast.Name) else None, ".".join(names)
