"""The sizes of one convolution, which decide everything about its kernels but the values."""

import math
from dataclasses import dataclass, replace

import torch

from ..call import Call, out_size
from . import operands

Pair = tuple[int, int]


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def round_up(size: int) -> int:
    """To 4, 5, 6 or 7 times a power of two."""
    step = 1 << max((size - 1).bit_length() - 3, 0)
    return cdiv(size, step) * step


@dataclass(frozen=True)
class Problem:
    """One call of the op, of input [N, C_in, H, W] and weight [C_out, C_in/groups, KH, KW].

    has_g: whether a scale per sample stands on the reduction axis (channel or spatial attention per sample).
    exact: whether float32 is multiplied in float32, and not in TF32.
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
    exact: bool = False

    @classmethod
    def of(cls, call: Call) -> "Problem":
        """The sizes of a call of the op."""
        input, (stride, padding, dilation, groups) = call.input, call.geometry
        batch, in_channels, height, width = input.shape
        out_channels, _, *kernel_size = call.kernel_shape
        pairs = (tuple(pair) for pair in (kernel_size, stride, padding, dilation))
        has_g = "per_sample" in (call.kind("channel_attention"), call.kind("spatial_attention"))
        exact = input.dtype is torch.float32 and operands.input_precision() == "ieee"
        return cls(batch, in_channels, out_channels, height, width, *pairs, groups, input.dtype, has_g, exact)

    @property
    def out_height(self) -> int:
        return self._out_size(self.height, 0)

    @property
    def out_width(self) -> int:
        return self._out_size(self.width, 1)

    def _out_size(self, size: int, axis: int) -> int:
        return out_size(size, *(pair[axis] for pair in (self.kernel_size, self.stride, self.padding, self.dilation)))

    @property
    def size_class(self) -> "Problem":
        """The problem that stands for this one where tiles are chosen, so that images of similar sizes share kernels:
        height and width rounded up to one of four sizes between powers of two, such as 56 or 112."""
        return replace(self, height=round_up(self.height), width=round_up(self.width))

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def per_group(self) -> Pair:
        """Channels and filters of a group."""
        return self.in_channels // self.groups, self.out_channels // self.groups

    @property
    def geometry(self) -> tuple[int, ...]:
        """As kernels take it."""
        return *self.kernel_size, *self.stride, *self.dilation, *self.padding

    @property
    def tap_step(self) -> Pair:
        """From one tap to the next of those that reach one pixel of the input, along either axis."""
        step_h, step_w = (s // math.gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True))
        return step_h, step_w

    @property
    def out_pixels(self) -> int:
        """Of all samples together."""
        return self.batch * self.out_height * self.out_width

    @property
    def counted_in_32_bits(self) -> dict[str, int]:
        """Sizes that the kernels count so, by what they are."""
        in_pixels, out_pixels = self.height * self.width, self.out_height * self.out_width
        return {
            "elements in the weight": self.out_channels * self.per_group[0] * self.taps,
            "elements in a sample": max(self.in_channels * in_pixels, self.out_channels * out_pixels),
            "pixels": self.batch * max(in_pixels, out_pixels),
        }

    @property
    def plain_depthwise(self) -> bool:
        """Whether each channel has one filter and each filter one channel, as conv_depthwise.py takes it."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates, taps on the padding included."""
        return self.out_pixels * self.out_channels * self.per_group[0] * self.taps

    @property
    def key(self) -> str:
        """The shape class, in the files of tuned results: batches up to the same power of two share one."""
        pairs = (self.kernel_size, self.stride, self.padding, self.dilation)
        kernel, stride, padding, dilation = (f"{a}x{b}" for a, b in pairs)
        batch = 1 << max(self.batch - 1, 0).bit_length()
        sizes = f"{self.in_channels}->{self.out_channels}@{self.height}x{self.width} batch<={batch}"
        geometry = f"kernel {kernel} stride {stride} padding {padding} dilation {dilation} groups {self.groups}"
        return f"{str(self.dtype).removeprefix('torch.')} {sizes} {geometry}"
