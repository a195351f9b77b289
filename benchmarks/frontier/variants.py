"""What stands where layers of one shape follow each other: kernels of their own, a shared kernel, a peer's layers."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from benchmarks.peers import PEERS
from kerneldna_ops.nn import ChildConv2d

# (count, in_channels, out_channels, kernel_size, reduction) -> so many layers of that shape, stride 1 and the same
# size of image. `reduction` is that of the published adapter; the peers have widths of their own.
Layers = Callable[[int, int, int, int, int], list[nn.Module]]


def own_kernels(count: int, in_channels: int, out_channels: int, kernel_size: int, reduction: int) -> list[nn.Module]:
    return [conv(in_channels, out_channels, kernel_size) for _ in range(count)]


def published(count: int, in_channels: int, out_channels: int, kernel_size: int, reduction: int) -> list[nn.Module]:
    """A parent and its children. As published: f is static, s too, and absent in a 1x1 convolution."""
    parent = conv(in_channels, out_channels, kernel_size)
    spatial = "static" if kernel_size > 1 else None
    return [parent, *(ChildConv2d(parent, reduction=reduction, spatial=spatial) for _ in range(count - 1))]


def dynamic(count: int, in_channels: int, out_channels: int, kernel_size: int, reduction: int) -> list[nn.Module]:
    """A parent and its children; c, f and s come from the input."""
    parent = conv(in_channels, out_channels, kernel_size)
    attention = {"filter": "dynamic", "spatial": "dynamic" if kernel_size > 1 else None}
    return [parent, *(ChildConv2d(parent, reduction=reduction, **attention) for _ in range(count - 1))]


def peer(name: str) -> Layers:
    """A peer's layer in every place, as its paper has it."""

    def layers(count: int, in_channels: int, out_channels: int, kernel_size: int, reduction: int) -> list[nn.Module]:
        shape = in_channels, out_channels, kernel_size
        return [PEERS[name](*shape, padding=kernel_size // 2) for _ in range(count)]

    return layers


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


@dataclass(frozen=True)
class Variant:
    """`narrow` is for the network of about as many parameters as the KernelDNA ones, without shared kernels."""

    label: str
    layers: Layers
    narrow: bool = False


STATIC = "static"
VARIANTS = {
    STATIC: Variant("static", own_kernels),
    "static-narrow": Variant("static, narrow", own_kernels, narrow=True),
    "kerneldna": Variant("KernelDNA, published", published),
    "kerneldna-dynamic": Variant("KernelDNA, fully dynamic", dynamic),
    "se": Variant("SE", peer("se")),
    "condconv": Variant("CondConv", peer("condconv")),
    "dynamic-conv": Variant("dynamic convolution", peer("dynamic")),
    "odconv": Variant("ODConv", peer("odconv")),
    "kernelwarehouse": Variant("KernelWarehouse", peer("kernelwarehouse")),
}
