"""The temperature of an attention."""

from typing import Any

from torch import Tensor, nn

from ._checks import positive
from .squeeze_excite import channel_mean


class Annealed(nn.Module):
    """An attention with a temperature, which divides the logits: the higher, the more alike the shares.

    It is a plain number, as in the authors' codes, so that no key of the state_dict stands for it. A training that goes
    on from a checkpoint sets it again.
    """

    def __init__(self, layer: str, temperature: Any) -> None:
        super().__init__()
        self._layer = layer
        self.temperature = temperature

    @property
    def temperature(self) -> float:
        return self._temperature

    @temperature.setter
    def temperature(self, value: Any) -> None:
        self._temperature = positive(self._layer, "temperature", value)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"


def pooled(input: Tensor) -> Tensor:
    """[N, C, 1, 1], what a 1x1 convolution takes, of [N, C, H, W]."""
    return channel_mean(input)[..., None, None]


def reset_conv_layers(attention: nn.Module) -> None:
    """As both authors' codes start their 1x1 convolutions: He's normal distribution by fan-out, biases at zero."""
    for layer in attention.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
