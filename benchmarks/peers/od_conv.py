"""ODConv: Li et al., Omni-Dimensional Dynamic Convolution (ICLR 2022, arXiv 2209.07947)."""

import torch
from torch import Tensor, nn

from kerneldna_ops.functional import conv2d

from .annealing import Annealed
from .mixture import MixedConv2d
from .squeeze import Squeeze


class ODConv2d(MixedConv2d):
    """conv(x, sum_k a_k * f_k * c_k * s_k * W_k) with attentions over kernels, filters, channels and taps (equation
    2). With one kernel, the default, that is the op as it stands.

    As in the authors' code, c, f and s are the same for all kernels, a depthwise layer has no filter attention and a
    1x1 layer no spatial one. The temperature, of all four, goes from 30 to 1."""

    def __init__(self, *args, kernels: int = 1, **kwargs) -> None:
        super().__init__(kernels, *args, **kwargs)
        self.attention = Attention(self, kernels)

    def forward(self, input: Tensor) -> Tensor:
        c, f, s, mixture = self.attention(input)
        if mixture is not None:
            return self.mix(input, mixture, c, f, s)
        bias = None if self.bias is None else self.bias[0]
        attentions = {"channel_attention": c, "filter_attention": f, "spatial_attention": s}
        return conv2d(input, self.weight[0], bias, **attentions, **self.geometry)


class Attention(Annealed):
    """[N, C_in, H, W] -> c [N, C_in], f [N, C_out], s [N, kh, kw], shares of the kernels [N, K]; None what is absent.

    Section 3.2: one squeezed vector, a head for each, sigmoid for c, f and s, softmax over the kernels."""

    def __init__(self, conv: MixedConv2d, kernels: int) -> None:
        super().__init__(start=30.0, end=1.0)
        self.kernel_size = conv.kernel_size
        self.squeeze = Squeeze(conv.in_channels)
        depthwise = conv.in_channels == conv.out_channels == conv.groups
        taps = conv.kernel_size[0] * conv.kernel_size[1]
        self.channel = self._head(conv.in_channels)
        self.filter = None if depthwise else self._head(conv.out_channels)
        self.spatial = None if taps == 1 else self._head(taps)
        self.kernel = None if kernels == 1 else self._head(kernels)

    def _head(self, width: int) -> nn.Linear:
        return nn.Linear(self.squeeze.features, width)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        squeezed = self.squeeze(input)

        def logits(head: nn.Linear) -> Tensor:
            return head(squeezed) / self.temperature

        c = torch.sigmoid(logits(self.channel))
        f = None if self.filter is None else torch.sigmoid(logits(self.filter))
        s = None if self.spatial is None else torch.sigmoid(logits(self.spatial)).unflatten(1, self.kernel_size)
        return c, f, s, None if self.kernel is None else logits(self.kernel).softmax(1)
