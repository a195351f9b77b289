"""Dynamic convolution: Chen et al., Dynamic Convolution: Attention over Convolution Kernels (arXiv 1912.03458)."""

from torch import Tensor, nn

from .annealing import Annealed
from .mixture import MixedConv2d


class DynamicConv2d(MixedConv2d):
    """conv(x, sum_k a_k W_k) + sum_k a_k b_k with a = softmax(z / temperature), z from two dense layers on mean(x)
    (sections 3 and 4), 4 kernels. The temperature goes from 30 to 1: nearly equal shares train all kernels at first."""

    def __init__(self, *args, kernels: int = 4, **kwargs) -> None:
        super().__init__(kernels, *args, **kwargs)
        self.attention = KernelAttention(self.in_channels, kernels)

    def forward(self, input: Tensor) -> Tensor:
        return self.mix(input, self.attention(input))


class KernelAttention(Annealed):
    """[N, C, H, W] -> shares [N, K] that add up to 1. The hidden layer is a quarter as wide as the input."""

    def __init__(self, channels: int, kernels: int) -> None:
        super().__init__(start=30.0, end=1.0)
        hidden = max(channels // 4, 1)
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, kernels))

    def forward(self, input: Tensor) -> Tensor:
        return (self.layers(input.mean((2, 3))) / self.temperature).softmax(1)
