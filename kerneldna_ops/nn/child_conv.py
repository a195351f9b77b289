"""A convolution that owns no kernel: it borrows its parent's."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from .. import functional
from .._arguments import pair
from ..checks import flag
from ._checks import Norm, check_layer_input
from ._fx import leaf
from ._geometry import check_geometry
from ._parent import PartsWithParent, weight_made_by_hooks
from .adapter import Adapter, Attention

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class ChildConv2d(nn.Module):
    """nn.Conv2d with the weight of another one, its parent, changed by an adapter of its own.

    child(x) = conv(x * c, W * s * f) + bias, with W the parent's weight and c, f, s from `Adapter`: KernelDNA
    (arXiv 2503.23379), or with f and s dynamic the form of ODConv. It stands where an nn.Conv2d with the parent's
    channels, kernel size and groups would.

    The parent is referred to, not registered: its weight is no parameter of the child and stands once in the
    state_dict and the parameters() of a network that holds both. It may come before or after its children.

    * `child.parent = other` borrows from another convolution of the same shape. A module put in the parent's place in
      the network is not noticed. That the parent got a bias is: then a BatchNorm was folded into the shared weight.
    * Tools that compute the parent's weight may do so by torch.nn.utils.parametrize or, of the older ones, be
      torch.nn.utils.weight_norm, spectral_norm and prune. Others are refused.
    * nn.DataParallel copies parent and children alike, and the copy's child borrows from the copy's parent.
    * deepcopy and pickle of a network keep the relation: the copy's child borrows from the copy's parent. A child
      copied or pickled by itself takes a copy of its parent along, of which nobody else knows.
    * to(), half() and so on of a child by itself leave the parent where it is.

    Args:
        parent: the convolution to borrow from, any nn.Conv2d.
        stride, padding, dilation, padding_mode: as for nn.Conv2d, padding also 'same' or 'valid'; None takes the
            parent's.
        bias: whether the child has a bias, its own.
        reduction, hidden, filter, spatial, identity, norm_layer: those of Adapter.
        device, dtype: of the child's parameters; None takes those of the parent's weight.

    Shape: input [N, C_in, H, W], float64, float32, float16 or bfloat16; output [N, C_out, H_out, W_out] as of
    nn.Conv2d, channels_last if the input is.

    Raises:
        TypeError: the parent is no nn.Conv2d, or dtypes are mixed.
        RuntimeError: a tool has changed the parent in a way that children cannot follow.
        AttributeError: somebody reads `child.weight`; there is none.
        ValueError: another argument, or the shape or the device of the input, does not fit.
    """

    parent: nn.Conv2d
    bias: nn.Parameter | None

    def __init__(
        self,
        parent: nn.Conv2d,
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] | Literal["same", "valid"] | None = None,
        dilation: int | tuple[int, int] | None = None,
        bias: bool = False,
        padding_mode: str | None = None,
        reduction: int = 4,
        hidden: int | None = None,
        filter: Attention = "static",
        spatial: Attention = "static",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        identity: bool = False,
        norm_layer: Norm | None = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        self.parent = parent
        self.in_channels = parent.in_channels
        self.out_channels = parent.out_channels
        self.kernel_size = pair("kernel_size", parent.kernel_size, "ChildConv2d")
        self.groups = parent.groups
        self.stride = pair("stride", parent.stride if stride is None else stride, "ChildConv2d")
        padding = parent.padding if padding is None else padding  # type: ignore[assignment]
        self.padding = padding if isinstance(padding, str) else pair("padding", padding, "ChildConv2d")
        self.dilation = pair("dilation", parent.dilation if dilation is None else dilation, "ChildConv2d")
        self.padding_mode = parent.padding_mode if padding_mode is None else padding_mode
        self._check_arguments()

        device = parent.weight.device if device is None else device
        dtype = parent.weight.dtype if dtype is None else dtype
        sizes = self.in_channels, self.out_channels, self.kernel_size
        self.adapter = Adapter(*sizes, reduction, hidden, filter, spatial, device, dtype, identity, norm_layer)
        with_bias = flag("ChildConv2d", "bias", bias)
        own_bias = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if with_bias else None
        self.register_parameter("bias", own_bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The bias starts as in nn.Conv2d, filter and spatial attention as the identity."""
        self.adapter.reset_parameters()
        if self.bias is not None:
            kh, kw = self.kernel_size
            bound = (self.in_channels // self.groups * kh * kw) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return leaf(self, input)
        weight = self._borrowed()
        check_layer_input("ChildConv2d", input, self.in_channels, "the parent's weight", weight)
        adapter: Any = self._modules["adapter"]  # as self.adapter, and faster
        return self._convolve(input, weight, self.bias, *adapter(input))

    def scaled(self, input: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """scale * child(input) + shift, with scale and shift [C_out], at the cost of child(input): it is another filter
        attention and bias. The way of `conv_norm`."""
        weight = self._borrowed()
        check_layer_input("ChildConv2d", input, self.in_channels, "the parent's weight", weight)
        c, f, s = self.adapter(input)
        bias = shift if self.bias is None else scale * self.bias + shift
        return self._convolve(input, weight, bias, c, scale if f is None else f * scale, s)

    def _convolve(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, c: Tensor, f: Tensor | None, s: Tensor | None
    ) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._border(), self.padding_mode), (0, 0)
        return functional.conv2d(
            input,
            weight,
            bias,
            channel_attention=c,
            filter_attention=f,
            spatial_attention=s,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def _borrowed(self) -> Tensor:
        """The parent's weight as it is now."""
        parent = self.parent
        if self._parent_has_no_bias and parent._parameters.get("bias") is not None:
            raise RuntimeError(
                "ChildConv2d: the parent has got a bias since, as by a BatchNorm that was folded into its weight, which"
                " its children borrow: fold by kerneldna_ops.materialize, or set child.parent again if it is right so"
            )
        return weight_made_by_hooks(parent) if parent._forward_pre_hooks else parent.weight

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        defaults = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
        for name, default in defaults.items():
            if (value := getattr(self, name)) != default:
                text += f", {name}={value!r}"
        return text + f", bias={self.bias is not None}"

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "parent":
            super().__setattr__(name, value)
            return
        self._check_parent(value)
        self.__dict__["parent"] = value  # nn.Module would register it
        self.__dict__["_parent_has_no_bias"] = value._parameters.get("bias") is None

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                "ChildConv2d: has no weight of its own, for it modulates that of child.parent;"
                " kerneldna_ops.materialize(model.eval()) makes layers with weights and folds norms into them"
            )
        return super().__getattr__(name)

    def _replicate_for_data_parallel(self) -> "ChildConv2d":
        replica: ChildConv2d = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        self.__dict__["_modules"] = PartsWithParent(self)
        return replica

    def _border(self) -> list[int]:
        """The padding as F.pad reads it: left, right, top, bottom. The odd one of 'same' goes to the end."""
        if self.padding == "valid":
            return [0, 0, 0, 0]
        if isinstance(self.padding, tuple):
            height, width = self.padding
            return [width, width, height, height]
        height, width = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        return [width // 2, width - width // 2, height // 2, height - height // 2]

    def _check_parent(self, parent: Any) -> None:
        if not isinstance(parent, nn.Conv2d):
            raise TypeError(f"ChildConv2d: parent must be a torch.nn.Conv2d, got {type(parent).__name__}")
        if "in_channels" not in self.__dict__:
            return
        for name in ("in_channels", "out_channels", "kernel_size", "groups"):
            if getattr(parent, name) != getattr(self, name):
                raise ValueError(
                    f"ChildConv2d: parent must have {name}={getattr(self, name)}, got {getattr(parent, name)}"
                )

    def _check_arguments(self) -> None:
        check_geometry("ChildConv2d", self.stride, self.padding, self.dilation)
        if self.padding_mode not in _PADDING_MODES:
            raise ValueError(f"ChildConv2d: padding_mode must be one of {_PADDING_MODES}, got {self.padding_mode!r}")
