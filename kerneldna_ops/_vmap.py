"""torch.func.vmap for conv and conv_backward.

The vmapped dimension joins the samples: attentions are per sample already, so that costs nothing. Only a weight or bias
of its own for each entry, or the gradient of one for each entry, does not fit into one call and takes one per entry.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._arguments import with_defaults

_conv = torch.ops.kerneldna.conv.default
_conv_backward = torch.ops.kerneldna.conv_backward.default

_STATIC_DIMS = (1, 1, 2)  # of channel, filter and spatial attention; per sample they have one more

Dims = Sequence[int | None]


def conv(info: Any, in_dims: Dims, *args: Any) -> tuple[Tensor, int]:
    batch_size = info.batch_size
    args = with_defaults(*args)
    geometry = args[6:]
    tensors, batched = _batch_first(args[:6], (*in_dims, *[None] * 6)[:6])
    if batched[1] or batched[2]:
        return torch.stack([_conv(*_entry(b, tensors, batched), *geometry) for b in range(batch_size)]), 0
    output = _conv(*_fold(batch_size, tensors, batched, wanted=[False] * 6), *geometry)
    return output.unflatten(0, (batch_size, -1 if output.size(0) else 0)), 0


def conv_backward(info: Any, in_dims: Dims, grad_output: Tensor, *args: Any) -> tuple[tuple[Tensor, ...], Dims]:
    batch_size, geometry, wanted = info.batch_size, args[6:-1], args[-1]
    (grad_output,), (grad_batched,) = _batch_first((grad_output,), in_dims[:1])
    tensors, batched = _batch_first(args[:6], in_dims[1:7])
    out_dims = tuple(0 if is_wanted else None for is_wanted in wanted)

    if batched[1] or wanted[1] or wanted[2]:
        entries = [
            _conv_backward(grad_output[b] if grad_batched else grad_output, *_entry(b, tensors, batched), *args[6:])
            for b in range(batch_size)
        ]
        columns = zip(*entries, strict=True)
        return tuple(torch.stack(c) if w else c[0] for c, w in zip(columns, wanted, strict=True)), out_dims

    tensors[2] = None  # a bias only matters to its own gradient
    folded = _fold(batch_size, tensors, batched, wanted)
    grad_output = _expand(grad_output, grad_batched, batch_size).flatten(0, 1)
    grads = list(_conv_backward(grad_output, *folded, *geometry, wanted))
    for i, is_wanted in enumerate(wanted):
        if is_wanted:
            grads[i] = grads[i].unflatten(0, (batch_size, -1 if grads[i].size(0) else 0))
            if i >= 3 and _is_static(i, tensors[i], batched[i]):
                grads[i] = grads[i].sum(1)
    return tuple(grads), out_dims


def _batch_first(tensors: Sequence[Any], dims: Dims) -> tuple[list[Any], list[bool]]:
    """The tensors, the vmapped dimension of those that have one in front, and which have one."""
    moved = [tensor if dim is None else tensor.movedim(dim, 0) for tensor, dim in zip(tensors, dims, strict=True)]
    return moved, [dim is not None for dim in dims]


def _entry(b: int, tensors: list[Any], batched: list[bool]) -> list[Any]:
    return [tensor[b] if is_batched else tensor for tensor, is_batched in zip(tensors, batched, strict=True)]


def _fold(batch_size: int, tensors: list[Any], batched: list[bool], wanted: Sequence[bool]) -> list[Any]:
    """The arguments of one call for all entries. A static attention whose gradient is wanted becomes one per sample."""
    input = _expand(tensors[0], batched[0], batch_size)
    folded = [input.flatten(0, 1), *tensors[1:3]]
    for i in (3, 4, 5):
        attention, is_batched = tensors[i], batched[i]
        if attention is not None:
            static = _is_static(i, attention, is_batched)
            if is_batched or wanted[i] or not static:
                attention = _expand(attention, is_batched, batch_size)
                if static:
                    attention = attention[:, None].expand(-1, input.size(1), *attention.shape[1:])
                attention = attention.flatten(0, 1)
        folded.append(attention)
    return folded


def _expand(tensor: Tensor, batched: bool, batch_size: int) -> Tensor:
    return tensor if batched else tensor.expand(batch_size, *tensor.shape)


def _is_static(i: int, attention: Tensor, batched: bool) -> bool:
    return attention.dim() - batched == _STATIC_DIMS[i - 3]
