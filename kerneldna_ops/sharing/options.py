"""What adapter a child gets, and the child itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..nn import ChildConv2d
from ..nn._checks import Norm
from ..nn.adapter import Attention


@dataclass(frozen=True)
class AdapterOptions:
    """The adapters of all children; the fields are those of `share_kernels`."""

    filter: Attention
    spatial: Attention
    reduction: int
    norm_layer: Norm | None = nn.BatchNorm1d

    def __post_init__(self) -> None:
        for name, choice in (("filter", self.filter), ("spatial", self.spatial)):
            if choice not in ("static", "dynamic", None):
                raise ValueError(f"share_kernels: {name} must be 'static', 'dynamic' or None, got {choice!r}")
        if not isinstance(self.reduction, int) or self.reduction < 1:
            raise ValueError(f"share_kernels: reduction must be an int of at least 1, got {self.reduction!r}")

    def plain(self) -> dict[str, Any]:
        """As plain data: all that is no class or function."""
        return {"filter": self.filter, "spatial": self.spatial, "reduction": self.reduction}

    def child(self, conv: nn.Conv2d, parent: nn.Conv2d, device: torch.device | str | None = None) -> ChildConv2d:
        """A child that stands for `conv`: same geometry, bias, dtype, device and mode, and an adapter of 1.

        A kernel of one tap gets no spatial attention: it would be another filter attention.
        """
        child = ChildConv2d(
            parent,
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            padding_mode=conv.padding_mode,
            bias=conv.bias is not None,
            hidden=max(1, min(conv.in_channels, conv.out_channels) // self.reduction),
            filter=self.filter,
            spatial=None if conv.kernel_size == (1, 1) else self.spatial,
            device=device,
            identity=True,
            norm_layer=self.norm_layer,
        )
        if conv.bias is not None and child.bias is not None and device is None:
            with torch.no_grad():
                child.bias.copy_(conv.bias)
            child.bias.requires_grad_(conv.bias.requires_grad)
        return child.train(conv.training)

    def size(self, conv: nn.Conv2d) -> int:
        """The number of parameters of the adapter of a child in place of `conv`."""
        return sum(parameter.numel() for parameter in self.child(conv, conv, "meta").adapter.parameters())
