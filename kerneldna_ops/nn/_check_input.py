"""What the layers say about an input that does not fit, one sentence each."""

import torch
from torch import Tensor

from ..checks import check_input


def check_layer_input(layer: str, input: Tensor, channels: int, name: str, parameter: Tensor | None) -> None:
    """Input must be [N, channels, H, W], only N may be 0, with the dtype (except under autocast) and on the device of
    `parameter`, if there is one to go by."""
    check_input(layer, input, f"[N, {channels}, H, W]")
    if torch._C._get_tracing_state() is not None:
        return  # there sizes are tensors, and to compare them is recorded, with a warning
    if input.shape[1] != channels:
        raise ValueError(f"{layer}: input must have {channels} channels, got {input.shape[1]} in {list(input.shape)}")
    if input.shape[2] == 0 or input.shape[3] == 0:
        raise ValueError(f"{layer}: only the batch of input may be empty, got {list(input.shape)}")
    if parameter is None:
        return
    if input.device != parameter.device:
        raise ValueError(f"{layer}: {name} must be on the device of input ({input.device}), got {parameter.device}")
    if input.dtype != parameter.dtype and not torch.is_autocast_enabled(input.device.type):
        wanted, got = (str(tensor.dtype).removeprefix("torch.") for tensor in (input, parameter))
        raise TypeError(f"{layer}: {name} must have the dtype of input ({wanted}), got {got}")
