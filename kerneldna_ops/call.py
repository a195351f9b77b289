"""A call of the op, and one of its backward, each as one thing that everything in Python takes.

What its arguments say of themselves (static or per sample, depthwise, size and memory format of what comes out) is
decided here alone; csrc/conv_call.h decides it for C++. Whether they fit together is for checks.py.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Kind: TypeAlias = Literal["absent", "static", "per_sample"]
Pair: TypeAlias = Sequence[int]

_STATIC_DIMS = {"channel_attention": 1, "filter_attention": 1, "spatial_attention": 2}


class Call(NamedTuple):
    """The arguments of kerneldna::conv, by the names and in the order of its schema.

    The dispatcher drops the last ones that equal their defaults: Call(*args) has all ten.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    channel_attention: Tensor | None = None
    filter_attention: Tensor | None = None
    spatial_attention: Tensor | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def function(self) -> str:
        return "conv"

    @property
    def forward(self) -> "Call":
        """Itself, as of a BackwardCall the call whose gradients it asks for."""
        return self

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self[:6]

    @property
    def geometry(self) -> tuple[Any, ...]:
        """Stride, padding, dilation and groups."""
        return self[6:]

    def kind(self, field: str) -> Kind:
        """Of one of the attentions, by its name."""
        return kind_of(field, getattr(self, field))

    def by_kind(self, field: str) -> tuple[Tensor | None, Tensor | None]:
        """The attention of this name, as (static, per sample), of which at least one is None."""
        attention = getattr(self, field)
        return (attention, None) if kind_of(field, attention) == "static" else (None, attention)

    @property
    def depthwise(self) -> bool:
        """Whether each filter sees one channel only, of several. A channel may have more than one filter."""
        return 1 < self.groups == self.input.shape[1]

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """[N, C_out, H_out, W_out], with sizes of 0 where the kernel does not fit into the input."""
        geometry = (self.stride, self.padding, self.dilation)
        axes = zip(self.input.shape[2:], self.weight.shape[2:], *geometry, strict=True)
        height, width = (out_size(*axis) for axis in axes)
        return self.input.shape[0], self.weight.shape[0], height, width

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the output."""
        return memory_format_of(self.input)


TENSORS = Call._fields[:6]
ATTENTIONS = TENSORS[3:]


class BackwardCall(NamedTuple):
    """The arguments of kerneldna::conv_backward: those of the forward are one."""

    grad_output: Tensor
    forward: Call
    output_mask: Sequence[bool]

    @classmethod
    def of(cls, grad_output: Tensor, *args: Any) -> "BackwardCall":
        """From the arguments as the op has them."""
        return cls(grad_output, Call(*args[:-1]), args[-1])

    @property
    def function(self) -> str:
        return "conv_backward"

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As the op has them."""
        return self.grad_output, *self.forward, self.output_mask

    @property
    def memory_formats(self) -> list[torch.memory_format | None]:
        """Of each gradient, None where it is not asked for."""
        tensors = zip(self.forward.tensors, self.output_mask, strict=True)
        return [memory_format_of(tensor) if wanted and tensor is not None else None for tensor, wanted in tensors]


AnyCall: TypeAlias = Call | BackwardCall


def kind_of(field: str, attention: Tensor | None, leading_dims: int = 0) -> Kind:
    """Of the attention of this name, with so many dimensions in front of its own, as torch.func.vmap has them."""
    if attention is None:
        return "absent"
    return "static" if attention.dim() - leading_dims == _STATIC_DIMS[field] else "per_sample"


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """The layout that the output takes from the input, and each gradient from its tensor.

    A transform of torch.func hides it: what lies under one says its own when the op comes to that.
    """
    if tensor.dim() != 4 or tensor.is_contiguous() or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return torch.contiguous_format
    return torch.channels_last if tensor.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def out_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Of the output along an axis; 0 where the kernel does not fit into the input."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    return 0 if span < 0 else span // stride + 1
