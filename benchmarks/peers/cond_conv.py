"""CondConv: Yang et al., Conditionally Parameterized Convolutions for Efficient Inference (arXiv 1904.04971)."""

import torch
from torch import Tensor

from kerneldna_ops import nn


class CondConv2d(nn.CondConv2d):
    """With routing of its own, sigmoid(mean(x) R) (section 3), and 8 experts as in the paper's experiments."""

    def __init__(self, *args, padding: int | tuple[int, int] = 0, num_experts: int = 8, **kwargs) -> None:
        super().__init__(*args, padding=padding, num_experts=num_experts, **kwargs)
        self.routing = torch.nn.Linear(self.in_channels, num_experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, torch.sigmoid(self.routing(x.mean((2, 3)))))
