"""The modulated convolution of StyleGAN2 and StyleGAN3 as a layer."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import functional
from .._arguments import integer
from ..checks import check_factors, flag
from ._fx import is_traced, leaf
from ._geometry import ConvLayer


class ModulatedConv2d(ConvLayer):
    """`kerneldna_ops.functional.modulated_conv2d` with a weight of its own: the convolution inside of a SynthesisLayer.

    The noise, the bias and the affine layer that makes the styles stay outside. `weight` is [C_out, C_in, kh, kw] and
    starts with the standard normal distribution, as in StyleGAN2 (arXiv 1912.04958) and StyleGAN3 (arXiv 2106.12423).

    Args:
        in_channels, out_channels, kernel_size: as for nn.Conv2d.
        demodulate: whether each filter of each sample is divided by its norm.
        padding: as for nn.Conv2d; None is kernel_size // 2 as in StyleGAN2, and StyleGAN3 has kernel_size - 1.
        up, down: 1 or 2, not both 2. With up=2 the weight is that of a convolution, not of a correlation, as in
            StyleGAN2 and in its checkpoints.
        resample_filter: the taps of the low-pass filter that goes with up=2 or down=2, StyleGAN2's are [1, 3, 3, 1], or
            rows of taps. It becomes a buffer of this name, as there: taps times taps, with the sum 1.

    Shape: x [N, C_in, H, W], styles [N, C_in]; output [N, C_out, H_out, W_out] in the dtype of x, which may be float16
    or bfloat16 where weight and styles are float32.

    Raises:
        TypeError, ValueError: an argument does not fit.
    """

    in_channels: int
    out_channels: int
    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        demodulate: bool = True,
        padding: int | tuple[int, int] | str | None = None,
        up: Literal[1, 2] = 1,
        down: Literal[1, 2] = 1,
        resample_filter: Sequence[Any] | None = None,
    ) -> None:
        channels = {"in_channels": in_channels, "out_channels": out_channels}
        super().__init__(channels, kernel_size, 1, 0 if padding is None else padding, 1, 1)
        if padding is None:
            self.padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        self.demodulate = flag("ModulatedConv2d", "demodulate", demodulate)
        self.up: Any = integer("up must be 1 or 2", up, op="ModulatedConv2d")
        self.down: Any = integer("down must be 1 or 2", down, op="ModulatedConv2d")
        check_factors("ModulatedConv2d", self.up, self.down, self.padding)
        self.weight = nn.Parameter(torch.randn(self._kernel_shape))
        self.register_buffer("resample_filter", None if resample_filter is None else _filter(resample_filter))

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        if is_traced(x, styles):
            return leaf(self, x, styles)  # type: ignore[no-any-return]
        return functional.modulated_conv2d(
            x,
            self.weight,
            styles,
            self.demodulate,
            self.padding,
            self.up,
            self.down,
            self.resample_filter,
            flip_weight=self.up == 1,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, demodulate={self.demodulate}, up={self.up}, down={self.down}"


def _filter(taps: Sequence[Any]) -> Tensor:
    """[rows, columns] with the sum 1."""
    try:
        values = torch.as_tensor(taps, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"ModulatedConv2d: resample_filter must be taps or rows of taps, got {taps!r}") from None
    values = torch.outer(values, values) if values.dim() == 1 else values
    if values.dim() != 2 or values.numel() == 0 or not 0 < values.sum() < math.inf:
        raise ValueError(
            f"ModulatedConv2d: resample_filter must be taps or rows of taps with a finite sum above 0, got {taps!r}"
        )
    return values / values.sum()
