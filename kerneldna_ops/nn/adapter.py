"""The decoupled adapter: what tells a child convolution from its parent."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ..checks import flag
from ._checks import Norm
from ._fx import leaf
from .squeeze_excite import SqueezeExcite

Attention: TypeAlias = Literal["static", "dynamic"] | None


class Adapter(nn.Module):
    """The three attentions of a convolution, as factors: channel c, filter f and spatial s.

    KernelDNA's decoupled adapter (arXiv 2503.23379) is the default: c comes from the input by squeeze-and-excitation,
    f and s are trained parameters, zero at first and used as 1 + value. `filter` and `spatial` each choose:

    * "static": the same for all samples, 1 + parameter;
    * "dynamic": one for each sample, in the manner of ODConv (arXiv 2209.07947): a linear head on the features that the
      squeeze-and-excitation has found already. The factor is 2 * sigmoid(head), between 0 and 2; the head starts at
      zero, so the factor at exactly 1;
    * None: absent.

    Args:
        in_channels, out_channels, kernel_size: those of the convolution.
        reduction, hidden: those of SqueezeExcite.
        filter, spatial: "static", "dynamic" or None.
        identity: whether c too is exactly 1 at the start, so that a trained layer can become a child without a change
            in what it computes. c is then 2 * gate, and the gate starts at 1/2: fc2 is zero. Published is the gate as
            it is.
        norm_layer: that of SqueezeExcite.

    Shape: input [N, in_channels, H, W]; output (c, f, s) with c [N, in_channels], f [out_channels] or
    [N, out_channels] or None, s [kh, kw] or [N, kh, kw] or None: the attentions that
    `kerneldna_ops.functional.conv2d` takes.

    Raises:
        ValueError: `filter` or `spatial` is none of the three. SqueezeExcite says what is wrong with an input.
    """

    filter_attention: nn.Parameter | None
    spatial_attention: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        reduction: int = 4,
        hidden: int | None = None,
        filter: Attention = "static",
        spatial: Attention = "static",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        identity: bool = False,
        norm_layer: Norm | None = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        for name, choice in (("filter", filter), ("spatial", spatial)):
            if choice not in ("static", "dynamic", None):
                raise ValueError(f"Adapter: {name} must be 'static', 'dynamic' or None, got {choice!r}")
        self.filter, self.spatial, self.identity = filter, spatial, flag("Adapter", "identity", identity)
        self.out_channels = out_channels
        self.kernel_size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        kh, kw = self.kernel_size

        self.se = SqueezeExcite(in_channels, reduction, hidden, device, dtype, norm_layer)
        features = self.se.fc1.out_features

        def static(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

        def head(outputs: int) -> nn.Linear:
            return nn.Linear(features, outputs, device=device, dtype=dtype)

        self.register_parameter("filter_attention", static(out_channels) if filter == "static" else None)
        self.register_parameter("spatial_attention", static(kh, kw) if spatial == "static" else None)
        self.filter_head = head(out_channels) if filter == "dynamic" else None
        self.spatial_head = head(kh * kw) if spatial == "dynamic" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts f and s over as the identity, factors of exactly 1, and with `identity` c as well."""
        starts = [self.filter_attention, self.spatial_attention, self.filter_head, self.spatial_head]
        for start in [*starts, self.se.fc2] if self.identity else starts:
            for parameter in start.parameters() if isinstance(start, nn.Module) else (start,):
                if parameter is not None:
                    nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if isinstance(input, Proxy):
            return leaf(self, input)
        f, s = self.static()
        if self.filter_head is None and self.spatial_head is None:
            return self._channel(self.se(input)), f, s
        features: list[Tensor] = []
        c = self._channel(self.se(input, features=features))
        (hidden,) = features
        if self.filter_head is not None:
            f = 2 * torch.sigmoid(self.filter_head(hidden))
        if self.spatial_head is not None:
            s = 2 * torch.sigmoid(self.spatial_head(hidden)).unflatten(1, self.kernel_size)
        return c, f, s

    def static(self) -> tuple[Tensor | None, Tensor | None]:
        """(f, s) as far as they are the same for all samples."""
        f, s = self.filter_attention, self.spatial_attention
        return None if f is None else 1 + f, None if s is None else 1 + s

    def _channel(self, gate: Tensor) -> Tensor:
        return 2 * gate if self.identity else gate

    def extra_repr(self) -> str:
        text = f"filter={self.filter!r}, spatial={self.spatial!r}"
        return f"{text}, identity=True" if self.identity else text
