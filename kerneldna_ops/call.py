"""A call of the op, and one of its backward, each as one thing that everything in Python takes.

What its arguments say of themselves (static or per sample, depthwise, size and memory format of what comes out) is
decided here alone; csrc/conv_call.h decides it for C++. Whether they fit together is for checks.py.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Kind: TypeAlias = Literal["absent", "static", "per_sample"]
Kernels: TypeAlias = Literal["shared", "per_sample", "mixed"]
Pair: TypeAlias = Sequence[int]

_STATIC_DIMS = {"bias": 1, "channel_attention": 1, "filter_attention": 1, "spatial_attention": 2}


class Call(NamedTuple):
    """The arguments of kerneldna::conv, by the names and in the order of its schema.

    The dispatcher drops the last ones that equal their defaults: Call(*args) has all eleven.
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
    kernel_attention: Tensor | None = None

    @property
    def function(self) -> str:
        return "conv"

    @property
    def forward(self) -> "Call":
        """Itself, as of a BackwardCall the call whose gradients it asks for."""
        return self

    @classmethod
    def of(cls, tensors: Sequence[Tensor | None], geometry: Sequence[Any]) -> "Call":
        """From what `tensors` and `geometry` say of a call."""
        return cls(*arguments_of(tensors, geometry))

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """By the names in TENSORS."""
        return tensors_of(self)

    @property
    def geometry(self) -> tuple[Any, ...]:
        """Stride, padding, dilation and groups."""
        return self[6:10]

    def kind(self, field: str) -> Kind:
        """Of one of the attentions but kernel_attention, or of the bias, by its name."""
        return kind_of(field, getattr(self, field))

    def by_kind(self, field: str) -> tuple[Tensor | None, Tensor | None]:
        """The attention of this name, as (static, per sample), of which at least one is None."""
        attention = getattr(self, field)
        return (attention, None) if kind_of(field, attention) == "static" else (None, attention)

    @property
    def kernels(self) -> Kernels:
        """One weight for all samples, one for each, or several of which each sample has its own mixture."""
        if self.kernel_attention is not None:
            return "mixed"
        return "per_sample" if self.weight.dim() == 5 else "shared"

    @property
    def kernel_shape(self) -> torch.Size:
        """Of one kernel, [C_out, C_in/groups, kh, kw]."""
        return self.weight.shape[-4:]

    @property
    def depthwise(self) -> bool:
        """Whether each filter sees one channel only, of several. A channel may have more than one filter."""
        return 1 < self.groups == self.input.shape[1]

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """[N, C_out, H_out, W_out], with sizes of 0 where the kernel does not fit into the input."""
        geometry = (self.stride, self.padding, self.dilation)
        filters, _, *taps = self.kernel_shape
        height, width = (out_size(*axis) for axis in zip(self.input.shape[2:], taps, *geometry, strict=True))
        return self.input.shape[0], filters, height, width

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the output."""
        return memory_format_of(self.input)


TENSORS = (*Call._fields[:6], "kernel_attention")
ATTENTIONS = TENSORS[3:6]  # the factors of a kernel


class BackwardCall(NamedTuple):
    """The arguments of kerneldna::conv_backward: those of the forward are one."""

    grad_output: Tensor
    forward: Call
    output_mask: Sequence[bool]

    @classmethod
    def of(cls, grad_output: Tensor, *args: Any) -> "BackwardCall":
        """From the arguments as the op has them; a mask without the last value does not ask for what it stands for."""
        *forward, mask = args
        return cls(grad_output, Call(*forward), mask if len(mask) != len(TENSORS) - 1 else [*mask, False])

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


def tensors_of(values: Sequence[Any]) -> tuple[Any, ...]:
    """Of one value for each argument of conv those of the tensors, by the names in TENSORS. Missing ones are None."""
    missing = len(Call._fields) - len(values)
    return (*values[:6], values[10]) if not missing else tensors_of((*values, *[None] * missing))


def arguments_of(tensors: Sequence[Any], geometry: Sequence[Any]) -> tuple[Any, ...]:
    """The other way round: what belongs to the tensors and to the geometry, in the order of the schema."""
    return (*tensors[:6], *geometry, *tensors[6:])


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
