"""Squeeze-and-excitation, the source of channel attention."""

from typing import Any

import torch
from torch import Tensor, nn

from .. import backends
from . import _gate_kernels, _gate_kernels_triton
from ._bare import is_bare
from ._check_input import check_layer_input
from ._fold_cache import FoldCache, in_training
from ._trainable_gate import Statistics, TrainableGate

_squeeze_excite = torch.ops.kerneldna.squeeze_excite.default
_PLAIN = (Tensor, nn.Parameter)


class SqueezeExcite(nn.Module):
    """A gate between 0 and 1 for each sample and channel: sigmoid(fc2(relu(bn(fc1(mean of input over H and W))))).

    The routing half of KernelDNA's adapter (arXiv 2503.23379): the gate multiplies the input of a convolution, that is,
    it is the channel attention as it stands. fc1 (no bias) and fc2 (bias) are 1x1 convolutions; on a pooled input those
    are linear layers, and a state_dict with their weights as [R, C, 1, 1] and [C, R, 1, 1] loads too.

    In eval mode, with no gradient asked for and none waiting in `.grad`, BatchNorm is folded into fc1 once and all runs
    as the one op torch.ops.kerneldna.squeeze_excite. The folded weight follows every change that PyTorch counts; after
    a write through `.data`, which it does not count, call eval() again. Otherwise all of it is one step of autograd
    where it can be: on the CPU in float32 and float64 (csrc/cpu/squeeze_excite_training.cpp), on a GPU with Triton in
    three launches and two for the gradients (triton_kernels/squeeze_excite_training.py).

    Args:
        channels: C.
        reduction: R = channels // reduction, unless `hidden` is given.
        hidden: R, the number of features between fc1 and fc2.

    Shape: input [N, C, H, W], float64, float32, float16 or bfloat16, any strides; output [N, C] of the same dtype.

    Raises:
        TypeError: the input is no tensor or does not have the dtype of the parameters.
        ValueError: the input has another rank, number of channels or device, or is one sample in training mode, where
            BatchNorm needs more.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        hidden: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(
                f"SqueezeExcite: channels and reduction must be at least 1, got {channels} and {reduction}"
            )
        if hidden is None:
            hidden = channels // reduction
        if hidden < 1:
            raise ValueError(f"SqueezeExcite: hidden (else channels // reduction) must be at least 1, got {hidden}")
        self.channels = channels
        self.fc1 = nn.Linear(channels, hidden, bias=False, device=device, dtype=dtype)
        self.bn = nn.BatchNorm1d(hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self._folded = FoldCache[tuple[Tensor, Tensor]]()

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self.gate(self.hidden(input))
        bn: Any = self.bn  # it has statistics, whatever their type says
        fc1_weight, fc2_weight, fc2_bias = self.fc1.weight, self.fc2.weight, self.fc2.bias
        sources = fc1_weight, bn.weight, bn.bias, bn.running_mean, bn.running_var
        check_layer_input("SqueezeExcite", input, self.channels, "fc1.weight", fc1_weight)
        if bn.training or self._has_fc1_bias() or in_training(input, *sources, fc2_weight, fc2_bias):
            self._folded.clear()
            gate = self._in_one_step(input)
            return self.gate(self.hidden(input)) if gate is None else gate
        fc1_weight, fc1_bias = self._folded.get(self._fold, *sources)
        args = (input, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
        return backends.call(_squeeze_excite, *args)  # type: ignore[no-any-return]

    def hidden(self, input: Tensor) -> Tensor:
        """The features [N, R] between fc1 and fc2, from which other heads can read as well."""
        check_layer_input("SqueezeExcite", input, self.channels, "fc1.weight", self.fc1.weight)
        if self.bn.training and input.shape[0] == 1:
            raise ValueError(
                "SqueezeExcite: training needs at least 2 samples, because BatchNorm compares the samples of a batch,"
                f" got an input of {list(input.shape)}"
            )
        return torch.relu(self.bn(self.fc1(_mean(input))))

    def gate(self, hidden: Tensor) -> Tensor:
        """The gate [N, C] from the features [N, R]."""
        return torch.sigmoid(self.fc2(hidden))

    def _in_one_step(self, input: Tensor) -> Tensor | None:
        """The gate as one step of autograd, or None where that would not be the same or is not possible."""
        kernels = _training_kernels(input, self.fc1.weight)
        layers: dict[nn.Module, type[nn.Module]] = {self.fc1: nn.Linear, self.bn: nn.BatchNorm1d, self.fc2: nn.Linear}
        if kernels is None or not all(is_bare(layer, kind) for layer, kind in layers.items()):
            return None
        bn: Any = self.bn
        tensors = (self.fc1.weight, bn.weight, bn.bias, self.fc2.weight, self.fc2.bias)
        running = (bn.running_mean, bn.running_var)
        for tensor in (input, *tensors, *running):  # none of them absent, and no subclass that computes its own way
            if type(tensor) not in _PLAIN or tensor.dtype != input.dtype or tensor.device != input.device:
                return None
        if (
            not (running[0].is_contiguous() and running[1].is_contiguous())
            or len(input) < (2 if bn.training else 1)
            or input.numel() == 0
            or self._has_fc1_bias()
            or torch.is_autocast_enabled(input.device.type)
            or torch._C._are_functorch_transforms_active()
        ):
            return None
        statistics = Statistics(*running, bn.num_batches_tracked, bn.eps, bn.momentum, bn.training)
        try:
            return TrainableGate.apply(kernels, statistics, input, *tensors)  # type: ignore[no-any-return, no-untyped-call]
        except backends.CannotRun as error:
            if backends.chosen_backend() is not None:
                raise backends.cannot_run("triton", str(error)) from error
            return None

    def _has_fc1_bias(self) -> bool:
        """Only an fc1 that somebody put there has one; the fused forms do not know it."""
        fc1: Any = self.fc1
        return fc1.bias is not None

    def train(self, mode: bool = True) -> "SqueezeExcite":
        self._folded.clear()
        return super().train(mode)

    def _fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of fc1 followed by bn, worked out in float32 at least."""
        weight = self.fc1.weight
        bn: Any = self.bn
        dtype = torch.promote_types(weight.dtype, torch.float32)
        scale, shift, mean, var = (t.to(dtype) for t in (bn.weight, bn.bias, bn.running_mean, bn.running_var))
        factor = scale * torch.rsqrt(var + bn.eps)
        return (weight.to(dtype) * factor[:, None]).to(weight.dtype), (shift - mean * factor).to(weight.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._folded.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for key in (f"{prefix}fc1.weight", f"{prefix}fc2.weight"):
            if key in state_dict and state_dict[key].shape[2:] == (1, 1):
                state_dict[key] = state_dict[key].flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _mean(input: Tensor) -> Tensor:
    """[N, C] from [N, C, H, W]. The gradient of a sum is a view of one number for each channel; that of a mean is
    written out for each pixel before it is added to what comes from the convolution."""
    if input.dtype == torch.float16:  # the sum could be out of its range
        return input.mean((2, 3))
    return input.sum((2, 3)) / (input.shape[2] * input.shape[3])


def _training_kernels(input: Tensor, fc1_weight: Tensor) -> Any:
    """Those of the chosen backend; else those for the device of the input. None where there are none."""
    chosen = backends.chosen_backend()
    if (chosen == "triton" or (chosen is None and input.is_cuda)) and _gate_kernels_triton.run_on(input, fc1_weight):
        return _gate_kernels_triton
    return _gate_kernels if chosen in (None, "cpu") and _gate_kernels.run_on(input) else None
