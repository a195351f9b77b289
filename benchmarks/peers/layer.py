"""What all peers have in common: the arguments of nn.Conv2d, and a convolution with kernels of each sample's own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = int | tuple[int, int]


class PeerConv2d(nn.Module):
    """nn.Conv2d without a kernel: input [N, C_in, H, W] -> [N, C_out, H_out, W_out]. Zero padding only.

    Raises:
        ValueError: the groups do not divide the channels.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: groups must divide in_channels = {in_channels} and out_channels ="
                f" {out_channels}, got {groups}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = map(pair, (kernel_size, stride, padding, dilation))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)

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

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride},"
            f" padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


def per_sample_conv2d(
    input: Tensor,
    kernels: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """Convolves sample n with kernels[n], [N, C_out, C_in/groups, kh, kw]: one convolution of N * groups groups."""
    batch = len(input)
    samples = input.reshape(1, -1, *input.shape[2:])
    output = F.conv2d(samples, kernels.flatten(0, 1), None, stride, padding, dilation, batch * groups)
    return output.view(batch, -1, *output.shape[2:])


def add_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    """The bias may be one for all samples, [C_out], or [N, C_out]."""
    return output if bias is None else output + bias[..., None, None]


def pair(value: Pair) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
