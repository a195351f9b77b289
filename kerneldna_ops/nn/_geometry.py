"""Kernel size, stride, padding, dilation and groups of a layer: what the constructors take and say of them."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .. import functional
from .._arguments import pair
from ..checks import check_pair
from ._checks import whole


class ConvLayer(nn.Module):
    """A layer that owns its kernels: the arguments of nn.Conv2d, checked, and the call of the op with them.

    Args:
        channels: the names and values of the constructor's two numbers of channels, input first.
        kernel_size, stride, padding, dilation, groups: as for nn.Conv2d, padding also 'same' or 'valid'.

    Raises:
        TypeError, ValueError: an argument does not fit.
    """

    kernel_size: tuple[int, int]
    padding: Any  # a pair, 'same' or 'valid'

    def __init__(
        self, channels: dict[str, Any], kernel_size: Any, stride: Any, padding: Any, dilation: Any, groups: Any
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        self._channels = tuple(channels)
        for name, value in channels.items():
            setattr(self, name, whole(layer, name, value))
        self.kernel_size, self.stride = pair("kernel_size", kernel_size, layer), pair("stride", stride, layer)
        self.dilation = pair("dilation", dilation, layer)
        self.padding = padding if isinstance(padding, str) else pair("padding", padding, layer)
        self.groups = whole(layer, "groups", groups)
        check_pair(layer, "kernel_size", self.kernel_size, 1)
        check_geometry(layer, self.stride, self.padding, self.dilation)
        if any(getattr(self, name) % self.groups for name in channels):
            sizes = " and ".join(f"{name} = {getattr(self, name)}" for name in channels)
            raise ValueError(f"{layer}: groups must divide {sizes}, got {self.groups}")

    @property
    def _kernel_shape(self) -> tuple[int, int, int, int]:
        """[C_out, C_in/groups, kh, kw]"""
        in_channels, out_channels = (getattr(self, name) for name in self._channels)
        return out_channels, in_channels // self.groups, *self.kernel_size

    def _convolve(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **attentions: Any) -> Tensor:
        geometry: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return functional.conv2d(input, weight, bias, **attentions, **geometry, groups=self.groups)

    def _apply(self, fn: Callable[[Tensor], Any], recurse: bool = True) -> "ConvLayer":
        """`to` gives all tensors of five dimensions the memory format of the network, and K kernels in one have none
        of their own: they are converted as K * C_out filters."""

        def convert(tensor: Tensor) -> Any:
            try:
                return fn(tensor)
            except RuntimeError:
                if tensor.dim() != 5:
                    raise
                return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])

        super()._apply(convert, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        sizes = ", ".join(str(getattr(self, name)) for name in self._channels)
        return (
            f"{sizes}, kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r},"
            f" dilation={self.dilation}, groups={self.groups}"
        )


def check_geometry(layer: str, stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int]) -> None:
    check_pair(layer, "stride", stride, 1)
    check_pair(layer, "dilation", dilation, 1)
    if not isinstance(padding, str):
        check_pair(layer, "padding", padding, 0)
    elif padding not in ("same", "valid"):
        raise ValueError(f"{layer}: padding must be ints, 'same' or 'valid', got {padding!r}")
    elif padding == "same" and tuple(stride) != (1, 1):
        raise ValueError(f"{layer}: padding='same' needs stride 1, got {stride}")
