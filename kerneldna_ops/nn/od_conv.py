"""ODConv: Li et al., Omni-Dimensional Dynamic Convolution (ICLR 2022, arXiv 2209.07947)."""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ._annealed import Annealed, pooled, reset_conv_layers
from ._bare import is_bare
from ._checks import Norm, check_layer_input, norm_of, positive, whole
from ._fx import leaf
from ._geometry import ConvLayer

_LEAST_HIDDEN = 16


class ODConv2d(ConvLayer):
    """f * conv(c * x, s * sum_k a_k W_k) with attentions over channels, filters, taps and kernels, all from x
    (equation 2).

    Arguments, initialisation, temperature and state_dict are those of the authors' modules/odconv.py, and so is that c,
    f and s are common to all kernels: `weight` is [kernel_num, C_out, C_in/groups, kh, kw], the attention's layers are
    1x1 convolutions. The forward is one call of `kerneldna_ops.functional.conv2d` with all four attentions, and makes
    no kernel for each sample.

    A depthwise layer has no filter attention, a 1x1 layer no spatial attention, a single kernel no kernel attention.

    Args:
        in_planes, out_planes: C_in and C_out.
        kernel_size, stride, padding, dilation, groups: as for nn.Conv2d.
        reduction: the attention has int(in_planes * reduction) hidden features, at least 16.
        kernel_num: K.
        norm_layer: from a number of features to the module `attention.bn` that stands between the attention's first
            layer and ReLU, on [N, features, 1, 1]: nn.BatchNorm2d as published; lambda features: nn.GroupNorm(1,
            features), torchvision's LayerNorm2d, or None for none, with all of which a batch of one sample trains; or
            nn.SyncBatchNorm, whose batch is that of all processes.

    Shape: x [N, C_in, H, W], float64, float32, float16 or bfloat16; output [N, C_out, H_out, W_out].

    Raises:
        TypeError, ValueError: an argument does not fit, a temperature at or below 0 among them, or x is one sample in
            training mode, where BatchNorm needs more.
    """

    in_planes: int
    out_planes: int

    def __init__(
        self,
        in_planes: int,
        out_planes: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        reduction: float = 0.0625,
        kernel_num: int = 4,
        norm_layer: Norm | None = nn.BatchNorm2d,
    ) -> None:
        channels = {"in_planes": in_planes, "out_planes": out_planes}
        super().__init__(channels, kernel_size, stride, padding, dilation, groups)
        self.kernel_num = whole("ODConv2d", "kernel_num", kernel_num)
        hidden = max(int(in_planes * positive("ODConv2d", "reduction", reduction)), _LEAST_HIDDEN)
        depthwise = in_planes == out_planes == groups
        norm = norm_of("ODConv2d", norm_layer, hidden, None, None)
        self.attention = Attention(in_planes, out_planes, self.kernel_size, depthwise, norm, hidden, self.kernel_num)
        self.weight = nn.Parameter(torch.empty(self.kernel_num, *self._kernel_shape))
        for kernel in self.weight.detach():
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")

    def update_temperature(self, temperature: float) -> None:
        """Sets the temperature of all four attentions; the authors lower it from 30 to 1 in the first ten epochs."""
        self.attention.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return leaf(self, x)
        check_layer_input("ODConv2d", x, self.in_planes, "weight", self.weight, "x")
        c, f, s, a = self.attention(x)
        attentions = {"channel_attention": c, "filter_attention": f, "spatial_attention": s, "kernel_attention": a}
        return self._convolve(x, self.weight[0] if a is None else self.weight, **attentions)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kernel_num={self.kernel_num}"


class Attention(Annealed):
    """[N, C_in, H, W] -> c [N, C_in], f [N, C_out], s [N, kh, kw] and shares of the kernels [N, K], None if absent.

    One squeezed vector and a head for each, sigmoid for c, f and s, softmax over the kernels (section 3.2).
    """

    def __init__(
        self,
        in_planes: int,
        out_planes: int,
        kernel_size: tuple[int, int],
        depthwise: bool,
        norm: nn.Module,
        hidden: int,
        kernel_num: int,
    ) -> None:
        super().__init__("ODConv2d", 1.0)
        self.kernel_size = kernel_size
        taps = kernel_size[0] * kernel_size[1]
        self.fc = nn.Conv2d(in_planes, hidden, 1, bias=False)
        self.bn = norm
        self.channel_fc = nn.Conv2d(hidden, in_planes, 1)
        self.filter_fc = None if depthwise else nn.Conv2d(hidden, out_planes, 1)
        self.spatial_fc = None if taps == 1 else nn.Conv2d(hidden, taps, 1)
        self.kernel_fc = None if kernel_num == 1 else nn.Conv2d(hidden, kernel_num, 1)
        reset_conv_layers(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        if is_bare(self.bn, nn.BatchNorm2d) and self.bn.training and x.shape[0] == 1:
            raise ValueError(
                "ODConv2d: training needs at least 2 samples, because BatchNorm compares the samples of a batch"
                " (norm_layer=None or lambda features: nn.GroupNorm(1, features) takes one), got x of"
                f" {list(x.shape)}"
            )
        features = torch.relu(self.bn(self.fc(pooled(x))))

        def logits(head: nn.Module) -> Tensor:
            values: Tensor = head(features).flatten(1)
            return values / self.temperature

        c = torch.sigmoid(logits(self.channel_fc))
        f = None if self.filter_fc is None else torch.sigmoid(logits(self.filter_fc))
        s = None if self.spatial_fc is None else torch.sigmoid(logits(self.spatial_fc)).unflatten(1, self.kernel_size)
        return c, f, s, None if self.kernel_fc is None else torch.softmax(logits(self.kernel_fc), 1)
