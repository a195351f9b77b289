"""Dynamic convolution: Chen et al., Dynamic Convolution: Attention over Convolution Kernels (arXiv 1912.03458)."""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ..checks import flag
from ._annealed import Annealed, pooled, reset_conv_layers
from ._checks import check_layer_input, positive, whole
from ._fx import leaf
from ._geometry import ConvLayer


class DynamicConv2d(ConvLayer):
    """conv(x, sum_k a_k W_k) + sum_k a_k b_k with a = softmax(fc2(relu(fc1(mean of x))) / temperature) (sections 3, 4).

    Arguments, initialisation, temperature and state_dict are those of Dynamic_conv2d in the much used
    kaijieshi7/Dynamic-convolution-Pytorch: `weight` is [K, C_out, C_in/groups, kh, kw], `bias` [K, C_out], fc1 and fc2
    are 1x1 convolutions. The forward is one call of `kerneldna_ops.functional.conv2d` with kernel_attention=a, and
    makes no kernel for each sample.

    Args:
        in_planes, out_planes: C_in and C_out.
        kernel_size, stride, padding, dilation, groups, bias: as for nn.Conv2d.
        ratio: the attention has int(in_planes * ratio) + 1 hidden features, of images with 3 planes K.
        K: the number of kernels.
        temperature: at the start; `update_temperature`, called once an epoch, lowers it by 3 until it is 1.
        init_weight: whether the kernels start with He's uniform distribution; else with the standard normal one.

    Shape: x [N, C_in, H, W], float64, float32, float16 or bfloat16; output [N, C_out, H_out, W_out].

    Raises:
        TypeError, ValueError: an argument does not fit, a temperature at or below 0 among them.
    """

    in_planes: int
    out_planes: int
    bias: nn.Parameter | None

    def __init__(
        self,
        in_planes: int,
        out_planes: int,
        kernel_size: int | tuple[int, int],
        ratio: float = 0.25,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        K: int = 4,
        temperature: float = 34,
        init_weight: bool = True,
    ) -> None:
        channels = {"in_planes": in_planes, "out_planes": out_planes}
        super().__init__(channels, kernel_size, stride, padding, dilation, groups)
        self.K = whole("DynamicConv2d", "K", K)
        ratio = positive("DynamicConv2d", "ratio", ratio)
        hidden = self.K if in_planes == 3 else int(in_planes * ratio) + 1
        self.attention = KernelAttention(in_planes, hidden, self.K, temperature)
        self.weight = nn.Parameter(torch.randn(self.K, *self._kernel_shape))
        if flag("DynamicConv2d", "init_weight", init_weight):
            for kernel in self.weight.detach():
                nn.init.kaiming_uniform_(kernel)
        with_bias = flag("DynamicConv2d", "bias", bias)
        self.register_parameter("bias", nn.Parameter(torch.zeros(self.K, out_planes)) if with_bias else None)

    def update_temperature(self) -> None:
        """One step of the annealing."""
        if self.attention.temperature > 1:
            self.attention.temperature = max(self.attention.temperature - 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return leaf(self, x)
        check_layer_input("DynamicConv2d", x, self.in_planes, "weight", self.weight, "x")
        return self._convolve(x, self.weight, self.bias, kernel_attention=self.attention(x))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bias={self.bias is not None}, K={self.K}"


class KernelAttention(Annealed):
    """[N, C, H, W] -> shares [N, K] that add up to 1."""

    def __init__(self, channels: int, hidden: int, kernels: int, temperature: float) -> None:
        super().__init__("DynamicConv2d", temperature)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, kernels, 1)
        reset_conv_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.fc2(torch.relu(self.fc1(pooled(x)))).flatten(1)
        return torch.softmax(logits / self.temperature, 1)
