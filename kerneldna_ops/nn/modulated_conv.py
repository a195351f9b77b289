"""The modulated convolution of StyleGAN2 and StyleGAN3 as a layer."""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from .. import functional
from ._checks import flag
from ._fx import leaf
from ._geometry import ConvLayer


class ModulatedConv2d(ConvLayer):
    """`kerneldna_ops.functional.modulated_conv2d` with a weight of its own: the convolution inside of a SynthesisLayer.

    The noise, the bias and the affine layer that makes the styles stay outside. `weight` is [C_out, C_in, kh, kw] and
    starts with the standard normal distribution, as in StyleGAN2 (arXiv 1912.04958) and StyleGAN3 (arXiv 2106.12423).

    Args:
        in_channels, out_channels, kernel_size: as for nn.Conv2d.
        demodulate: whether each filter of each sample is divided by its norm.
        padding: as for nn.Conv2d; None is kernel_size // 2 as in StyleGAN2, and StyleGAN3 has kernel_size - 1.

    Shape: x [N, C_in, H, W], styles [N, C_in]; output [N, C_out, H_out, W_out] in the dtype of x, which may be float16
    or bfloat16 where weight and styles are float32.

    Raises:
        TypeError, ValueError: an argument does not fit.
    """

    in_channels: int
    out_channels: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        demodulate: bool = True,
        padding: int | tuple[int, int] | str | None = None,
    ) -> None:
        channels = {"in_channels": in_channels, "out_channels": out_channels}
        super().__init__(channels, kernel_size, 1, 0 if padding is None else padding, 1, 1)
        if padding is None:
            self.padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        self.demodulate = flag("ModulatedConv2d", "demodulate", demodulate)
        self.weight = nn.Parameter(torch.randn(self._kernel_shape))

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return leaf(self, x, styles)
        return functional.modulated_conv2d(x, self.weight, styles, self.demodulate, self.padding)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, demodulate={self.demodulate}"
