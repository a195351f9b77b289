"""What share_kernels did, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


def count(module: nn.Module) -> int:
    """The number of parameters; one that is shared counts once, and those of a lazy module not yet."""
    return sum(0 if nn.parameter.is_lazy(parameter) else parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class Layer:
    """One convolution of the model.

    name: in the model. shape: of its weight, [C_out, C_in/groups, kh, kw], None where it has none to show.
    role: "parent", "child" or "own", which is not shared.
    parent: the name of a child's parent. weight_of: of a parent, whose weight it has now, a layer's or "mean".
    reason: why a layer of its own is not shared.
    frozen: whether the weight that it uses takes no gradient. Frozen and trained layers share nothing.
    before, after: its parameters, those of its adapter included and a parent's weight counted at the parent.
    """

    name: str
    shape: tuple[int, ...] | None
    role: str
    before: int
    after: int
    parent: str | None = None
    weight_of: str | None = None
    reason: str | None = None
    frozen: bool = False

    def remark(self) -> str:
        return f"{self._relation()}, frozen" if self.frozen else self._relation()

    def _relation(self) -> str:
        if self.role == "child":
            return f"of {self.parent}"
        if self.role == "parent":
            if self.weight_of == "mean":
                return "the mean weight of the group"
            return "its own weight" if self.weight_of == self.name else f"the weight of {self.weight_of}"
        return self.reason or ""


@dataclass(frozen=True)
class Report:
    """The convolutions of a model as registered, and its parameters before and after. It prints as a table.

    notes: what no longer works on the model, a sentence each.
    """

    layers: tuple[Layer, ...]
    parameters_before: int
    parameters_after: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        header = ("layer", "shape", "role", "parent, or why not shared", "before", "after")
        rows = [header]
        for layer in self.layers:
            shape = "" if layer.shape is None else "x".join(map(str, layer.shape))
            rows.append((layer.name, shape, layer.role, layer.remark(), f"{layer.before:,}", f"{layer.after:,}"))
        total = (f"{self.parameters_before:,}", f"{self.parameters_after:,}")
        rows.append(("all parameters of the model", "", "", "", *total))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join([*(_line(row, widths) for row in rows), *self.notes])


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(row[:4], widths[:4], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(row[4:], widths[4:], strict=True)]
    return "  ".join([*left, *right])
