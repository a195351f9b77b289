"""What the peers that are not in kerneldna_ops.nn have in common: the arguments of nn.Conv2d."""

from typing import Any

import torch
from torch import Tensor, nn

Pair = int | tuple[int, int]


class PeerConv2d(nn.Module):
    """nn.Conv2d without a kernel and a bias: input [N, C_in, H, W] -> [N, C_out, H_out, W_out]. Zero padding only."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = map(pair, (kernel_size, stride, padding, dilation))

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size

    @property
    def geometry(self) -> dict[str, Any]:
        """The keywords of F.conv2d, and of kerneldna_ops.functional.conv2d."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def new_kernel(self) -> Tensor:
        """[C_out, C_in/groups, kh, kw], drawn as the kernel of a static layer is in the published networks."""
        return nn.init.kaiming_normal_(torch.empty(self.kernel_shape), mode="fan_out", nonlinearity="relu")


def pair(value: Pair) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
