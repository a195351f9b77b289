"""Squeeze-and-excitation, the source of channel attention."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ._bare import is_bare
from ._checks import Norm, check_layer_input, norm_of, whole
from ._fused_gate import fused_gate
from ._fx import leaf


class SqueezeExcite(nn.Module):
    """A gate between 0 and 1 for each sample and channel: sigmoid(fc2(relu(bn(fc1(mean of input over H and W))))).

    The routing half of KernelDNA's adapter (arXiv 2503.23379): the gate multiplies the input of a convolution, that is,
    it is the channel attention as it stands. fc1 (no bias) and fc2 (bias) are 1x1 convolutions; on a pooled input those
    are linear layers, and a state_dict with their weights as [R, C, 1, 1] and [C, R, 1, 1] loads too.

    Where the three modules are what they were built as, nothing hooked, replaced or dressed, and no transform of
    torch.func, torch.jit or torch.compile is at work, all runs in one step: on the CPU in float32 and float64
    (csrc/cpu/squeeze_excite_training.cpp), on a GPU in training with Triton in three launches and two for the gradients
    (triton_kernels/squeeze_excite_training.py), and else, in eval mode without gradients, as the op
    torch.ops.kerneldna.squeeze_excite. Everywhere else the modules are called. Nothing is kept between calls.

    Args:
        channels: C.
        reduction: R = channels // reduction, unless `hidden` is given.
        hidden: R, the number of features between fc1 and fc2.
        norm_layer: from a number of features to the module `bn` that stands between fc1 and ReLU, on [N, R]:
            nn.BatchNorm1d as published; nn.LayerNorm, lambda features: nn.GroupNorm(1, features), or None for none,
            with all of which a batch of one sample trains; or nn.SyncBatchNorm, whose batch is that of all processes.

    Shape: input [N, C, H, W], float64, float32, float16 or bfloat16, any strides; output [N, C] of the same dtype.

    Raises:
        TypeError: the input is no tensor or does not have the dtype of the parameters.
        ValueError: the input has another rank, number of channels or device, or is one sample in training mode, where
            BatchNorm needs more, or an argument does not fit.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        hidden: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        norm_layer: Norm | None = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        self.channels = whole("SqueezeExcite", "channels", channels)
        reduction = whole("SqueezeExcite", "reduction", reduction)
        hidden = self.channels // reduction if hidden is None else hidden
        hidden = whole("SqueezeExcite", "hidden (else channels // reduction)", hidden)
        self.fc1 = nn.Linear(channels, hidden, bias=False, device=device, dtype=dtype)
        self.bn = norm_of("SqueezeExcite", norm_layer, hidden, device, dtype)
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)

    def forward(self, input: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """The gate [N, C]. Those between fc1 and fc2, [N, R], are added to `features`, from which other heads read."""
        if isinstance(input, Proxy):
            return leaf(self, input)
        fc1, bn, fc2 = self.fc1, self.bn, self.fc2
        weight = fc1.weight if is_bare(fc1, nn.Linear) else None  # another module may take another dtype
        check_layer_input("SqueezeExcite", input, self.channels, "fc1.weight", weight)
        gate = fused_gate(input, fc1, bn, fc2) if features is None else None
        if gate is not None:
            return gate
        if is_bare(bn, nn.BatchNorm1d) and bn.training and input.shape[0] == 1:
            raise ValueError(
                "SqueezeExcite: training needs at least 2 samples, because BatchNorm compares the samples of a batch"
                " (norm_layer=nn.LayerNorm or None, in a network se_norm_layer, takes one), got an input of"
                f" {list(input.shape)}"
            )
        hidden = torch.relu(bn(fc1(channel_mean(input))))
        if features is not None:
            features.append(hidden)
        return torch.sigmoid(fc2(hidden))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for key in (f"{prefix}fc1.weight", f"{prefix}fc2.weight"):
            if key in state_dict and state_dict[key].shape[2:] == (1, 1):
                state_dict[key] = state_dict[key].flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


def channel_mean(input: Tensor) -> Tensor:
    """[N, C] from [N, C, H, W]. The gradient of a sum is a view of one number for each channel; that of a mean is
    written out for each pixel, as a leaf's must be, before it is added to what comes from the convolution."""
    if (
        input.is_leaf
        or input.dtype == torch.float16  # the sum could be out of range
        or torch._C._get_tracing_state() is not None  # a second time without gradients, where all are leaves
    ):
        return input.mean((2, 3))
    return input.sum((2, 3)) / (input.shape[2] * input.shape[3])
