"""CondConv: Yang et al., Conditionally Parameterized Convolutions for Efficient Inference (arXiv 1904.04971)."""

import torch
from torch import Tensor, nn

from .mixture import MixedConv2d


class CondConv2d(MixedConv2d):
    """conv(x, sum_k a_k W_k) with routing weights a = sigmoid(mean(x) R) (section 3): each of the experts, 8 as in the
    paper's experiments, has a gate of its own."""

    def __init__(self, *args, kernels: int = 8, **kwargs) -> None:
        super().__init__(kernels, *args, **kwargs)
        self.routing = nn.Linear(self.in_channels, kernels, bias=False)

    def attention(self, input: Tensor) -> Tensor:
        return torch.sigmoid(self.routing(input.mean((2, 3))))

    def forward(self, input: Tensor) -> Tensor:
        return self.mix(input, self.attention(input))
