"""The sizes of one convolution, which decide everything about its kernels but the values."""

from dataclasses import dataclass

import torch

Pair = tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """One call of the op: input [batch, in_channels, height, width], weight [out_channels, in_channels/groups, *kernel].

    has_g: whether a scale per sample stands on the reduction axis (channel or spatial attention per sample).
    """

    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel_size: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    dtype: torch.dtype = torch.bfloat16
    has_g: bool = True

    @property
    def out_height(self) -> int:
        return self._out_size(self.height, 0)

    @property
    def out_width(self) -> int:
        return self._out_size(self.width, 1)

    def _out_size(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        return (size + 2 * self.padding[axis] - reach) // self.stride[axis] + 1

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def out_pixels(self) -> int:
        """Of all samples together."""
        return self.batch * self.out_height * self.out_width

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates, taps on the padding included."""
        return self.out_pixels * self.out_channels * (self.in_channels // self.groups) * self.taps
