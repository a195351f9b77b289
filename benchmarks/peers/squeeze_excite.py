"""Squeeze-and-excitation: Hu et al., Squeeze-and-Excitation Networks (arXiv 1709.01507)."""

import torch.nn.functional as F
from torch import Tensor, nn

from kerneldna_ops.functional import conv2d

from .layer import PeerConv2d


class SEConv2d(PeerConv2d):
    """A static convolution whose output is gated: y * sigmoid(W2 relu(W1 mean(y))) (equations 2 to 4, which
    have no biases), W1 a sixteenth as wide as y, 4 features at least.

    The gate is a filter attention that depends on the output, so the op cannot have it as its f: the output comes
    first. Only of a 1x1 convolution with neither stride nor padding is the mean of the output known before the
    output, W mean(x), and there the layer is one call of the op.

    Hu et al. gate the output of a residual branch, after its normalisation. As a layer, the gate follows the
    convolution itself, like their variant inside of the branch (section 6.5).
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.weight = nn.Parameter(self.new_kernel())
        hidden = max(self.out_channels // 16, 4)
        self.excite = nn.Sequential(
            nn.Linear(self.out_channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, self.out_channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input: Tensor) -> Tensor:
        if self._mean_is_known_first():
            mean = F.conv2d(input.mean((2, 3), keepdim=True), self.weight, groups=self.groups)
            return conv2d(input, self.weight, filter_attention=self.excite(mean.flatten(1)), groups=self.groups)
        output = F.conv2d(input, self.weight, **self.geometry)
        return output * self.excite(output.mean((2, 3)))[..., None, None]

    def _mean_is_known_first(self) -> bool:
        return self.kernel_size == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)
