"""CondConv: Yang et al., Conditionally Parameterized Convolutions for Efficient Inference (arXiv 1904.04971)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import flag
from ._checks import check_layer_input, check_like, check_per_sample, whole
from ._fx import is_traced, leaf
from ._geometry import ConvLayer


class CondConv2d(ConvLayer):
    """conv(x, sum_k r_k W_k) + sum_k r_k b_k with routing weights r from outside (section 3), as in timm.layers.

    Arguments, initialisation and state_dict are those of timm's CondConv2d: `weight` is [num_experts, C_out *
    C_in/groups * kh * kw], `bias` [num_experts, C_out]. The forward is one call of `kerneldna_ops.functional.conv2d`
    with kernel_attention=r, and makes no kernel for each sample.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as for nn.Conv2d.
        padding: as for nn.Conv2d in numbers; or as timm has it '', half of dilation * (kernel_size - 1) + stride - 1 on
            each side, 'valid', none, or 'same', as TensorFlow pads, with any stride and by the size of the input.
        num_experts: K.
        device, dtype: of the parameters.

    Shape: x [N, C_in, H, W], routing_weights [N, K]; output [N, C_out, H_out, W_out]. float64, float32, float16 or
    bfloat16, one for all.

    Raises:
        TypeError, ValueError: an argument does not fit.
    """

    in_channels: int
    out_channels: int
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = "",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        num_experts: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        channels = {"in_channels": in_channels, "out_channels": out_channels}
        numbers = 0 if isinstance(padding, str) else padding
        super().__init__(channels, kernel_size, stride, numbers, dilation, groups)
        self.num_experts = whole("CondConv2d", "num_experts", num_experts)
        self.dynamic_padding = False
        if isinstance(padding, str):
            self.padding, self.dynamic_padding = self._padding_of(padding)
        self.weight_shape = self._kernel_shape
        kind: Any = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(self.num_experts, math.prod(self.weight_shape), **kind))
        with_bias = flag("CondConv2d", "bias", bias)
        biases = nn.Parameter(torch.empty(self.num_experts, out_channels, **kind)) if with_bias else None
        self.register_parameter("bias", biases)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each expert starts as an nn.Conv2d does."""
        for kernel in self.weight.detach():
            nn.init.kaiming_uniform_(kernel.view(self.weight_shape), a=math.sqrt(5))
        if self.bias is not None:
            bound = math.prod(self.weight_shape[1:]) ** -0.5
            for bias in self.bias.detach():
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        if is_traced(x, routing_weights):
            return leaf(self, x, routing_weights)  # type: ignore[no-any-return]
        check_layer_input("CondConv2d", x, self.in_channels, "weight", self.weight, "x")
        check_per_sample("CondConv2d", "routing_weights", routing_weights, x, self.num_experts)
        check_like("CondConv2d", "routing_weights", routing_weights, x, "x")
        if self.dynamic_padding:
            x = F.pad(x, self._border(x))
        weight = self.weight.view(self.num_experts, *self.weight_shape)
        return self._convolve(x, weight, self.bias, kernel_attention=routing_weights)

    def _padding_of(self, name: str) -> tuple[tuple[int, int], bool]:
        """(padding, False), or ((0, 0), True) where it depends on the size of the input."""
        if name.lower() not in ("", "same", "valid"):
            raise ValueError(f"CondConv2d: padding must be ints, '', 'same' or 'valid', got {name!r}")
        name = name.lower()
        axes = list(zip(self.kernel_size, self.stride, self.dilation, strict=True))
        fits_all_sizes = all(step == 1 and d * (k - 1) % 2 == 0 for k, step, d in axes)
        if name == "valid" or (name == "same" and not fits_all_sizes):
            return (0, 0), name == "same"
        height, width = ((d * (k - 1) + step - 1) // 2 for k, step, d in axes)
        return (height, width), False

    def _border(self, x: Tensor) -> list[Any]:
        """As F.pad reads it: left, right, top, bottom; for ceil(size / stride) pixels, the odd one last."""
        border: list[Any] = []
        traced = torch._C._get_tracing_state() is not None  # then sizes are tensors, so that a graph serves every one
        for size, k, step, d in zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True):
            missing: Any = ((size + step - 1) // step - 1) * step + d * (k - 1) + 1 - size
            total = torch.clamp(missing, min=0) if traced else torch.sym_max(missing, 0)
            border = [total // 2, total - total // 2, *border]
        return border

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, bias={self.bias is not None}, num_experts={self.num_experts}"
        return f"{text}, dynamic_padding=True" if self.dynamic_padding else text
