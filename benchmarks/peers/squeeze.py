"""The first half of an attention: what is known of an input, in a few numbers."""

from torch import Tensor, nn


class Squeeze(nn.Sequential):
    """[N, C, H, W] -> [N, hidden]: mean, dense layer, BatchNorm, ReLU. ODConv and KernelWarehouse have the same one, a
    sixteenth as wide as its input, 16 features at least."""

    def __init__(self, channels: int) -> None:
        self.features = max(channels // 16, 16)
        super().__init__(nn.Linear(channels, self.features, bias=False), nn.BatchNorm1d(self.features), nn.ReLU())

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mean((2, 3)))
