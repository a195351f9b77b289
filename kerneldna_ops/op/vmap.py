"""torch.func.vmap for conv, conv_backward and squeeze_excite.

Attentions are per sample already, so where all entries share the weight, the vmapped dimension joins the samples, which
costs nothing. Weights of their own, or a gradient of the weight for each entry, are groups of one convolution: the
dimension joins the channels and filters. What fits into neither takes one call per entry: spatial attention that
differs by entry and by sample, and inputs that are large.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..call import TENSORS, Call, kind_of

_conv = torch.ops.kerneldna.conv.default
_conv_backward = torch.ops.kerneldna.conv_backward.default
_squeeze_excite = torch.ops.kerneldna.squeeze_excite.default

# Numbers in the input of an entry up to which, on a CPU, a call costs more than to bring entries of many samples
# together as channels. One sample needs no copy.
_WORTH_COPYING = 2**15

Dims = Sequence[int | None]


def conv(info: Any, in_dims: Dims, *args: Any) -> tuple[Tensor, int]:
    entries = info.batch_size
    call = Call(*args)
    geometry, nothing = call.geometry, [False] * 6
    tensors, batched = _batch_first(call.tensors, (*in_dims, *[None] * 6)[:6])
    if not (batched[1] or batched[2]):
        return _split(_conv(*_in_samples(entries, tensors, batched, nothing), *geometry), 0, entries), 0
    folded = _in_channels(entries, tensors, batched, nothing, geometry)
    if folded is not None:
        return _split(_conv(*folded), 1, entries), 1
    return torch.stack([_conv(*_entry(b, tensors, batched), *geometry) for b in range(entries)]), 0


def conv_backward(info: Any, in_dims: Dims, *args: Any) -> tuple[tuple[Tensor, ...], Dims]:
    entries, geometry, wanted = info.batch_size, args[7:11], args[11]
    (grad_output, *tensors), (grad_batched, *batched) = _batch_first(args[:7], in_dims[:7])
    if not (batched[1] or wanted[1] or wanted[2]):
        grad_output = _expand(grad_output, grad_batched, entries)
        grads, dims = _backward_in_samples(entries, grad_output, tensors, batched, wanted, geometry), [0] * 6
    elif (folded := _in_channels(entries, tensors, batched, wanted, geometry)) is not None:
        grad_output = _joined(grad_output, grad_batched, entries, 1)
        grads = _backward_in_channels(entries, grad_output, folded, tensors, batched, wanted)
        dims = _channel_dims(tensors, batched)
    else:
        each = [
            _conv_backward(grad_output[b] if grad_batched else grad_output, *_entry(b, tensors, batched), *args[7:])
            for b in range(entries)
        ]
        grads, dims = [torch.stack(grads) for grads in zip(*each, strict=True)], [0] * 6
    return tuple(grads), tuple(dim if is_wanted else None for dim, is_wanted in zip(dims, wanted, strict=True))


def squeeze_excite(info: Any, in_dims: Dims, *args: Any) -> tuple[Tensor, int]:
    tensors, batched = _batch_first(args, in_dims)
    if any(batched[1:]):
        return torch.stack([_squeeze_excite(*_entry(b, tensors, batched)) for b in range(info.batch_size)]), 0
    return _split(_squeeze_excite(tensors[0].flatten(0, 1), *tensors[1:]), 0, info.batch_size), 0


def _batch_first(tensors: Sequence[Any], dims: Dims) -> tuple[list[Any], list[bool]]:
    """The tensors, the vmapped dimension of those that have one in front, and which have one."""
    moved = [tensor if dim is None else tensor.movedim(dim, 0) for tensor, dim in zip(tensors, dims, strict=True)]
    return moved, [dim is not None for dim in dims]


def _entry(b: int, tensors: list[Any], batched: list[bool]) -> list[Any]:
    return [tensor[b] if is_batched else tensor for tensor, is_batched in zip(tensors, batched, strict=True)]


def _in_samples(entries: int, tensors: list[Any], batched: list[bool], wanted: Sequence[bool]) -> list[Any]:
    """The tensors of one call for all samples of all entries.

    A static attention whose gradient is wanted becomes one per sample.
    """
    input = _expand(tensors[0], batched[0], entries)
    folded = [input.flatten(0, 1), *tensors[1:3]]
    for i in (3, 4, 5):
        attention, is_batched = tensors[i], batched[i]
        if attention is not None:
            static = _is_static(i, attention, is_batched)
            if is_batched or wanted[i] or not static:
                attention = _expand(attention, is_batched, entries)
                if static:
                    attention = attention[:, None].expand(-1, input.size(1), *attention.shape[1:])
                attention = attention.flatten(0, 1)
        folded.append(attention)
    return folded


def _backward_in_samples(
    entries: int,
    grad_output: Tensor,
    tensors: list[Any],
    batched: list[bool],
    wanted: Sequence[bool],
    geometry: Sequence[Any],
) -> list[Tensor]:
    input, weight, _, *attentions = _in_samples(entries, tensors, batched, wanted)
    grads = _conv_backward(grad_output.flatten(0, 1), input, weight, None, *attentions, *geometry, wanted)
    grads = [_split(grad, 0, entries) if is_wanted else grad for grad, is_wanted in zip(grads, wanted, strict=True)]
    for i in (3, 4, 5):
        if wanted[i] and _is_static(i, tensors[i], batched[i]):
            grads[i] = grads[i].sum(1)
    return grads


def _in_channels(
    entries: int, tensors: list[Any], batched: list[bool], wanted: Sequence[bool], geometry: Sequence[Any]
) -> tuple[Any, ...] | None:
    """The arguments of one call for the channels and filters of all entries, or None where one does not fit or pay.

    Spatial attention that differs by entry, or whose gradient does, becomes a factor of the weight.
    """
    dims, joined, groups = _channel_dims(tensors, batched), list(tensors), geometry[3]
    # A dense convolution can share its input among all filters.
    shared = groups == 1 and not (batched[0] or batched[3] or wanted[0] or wanted[3])
    samples, *sizes = tensors[0].shape[batched[0] :]
    if not shared and samples > 1 and samples * math.prod(sizes) > _WORTH_COPYING:
        return None
    if tensors[5] is not None and (batched[5] or wanted[5]):
        if not _is_static(5, tensors[5], batched[5]):
            return None
        weight, s = (_expand(tensors[i], batched[i], entries) for i in (1, 5))
        tensors, batched = (
            [tensors[0], weight * s[:, None, None], *tensors[2:5], None],
            [batched[0], True, *batched[2:]],
        )
        joined[5] = None
    for i in (1, 2, 4) if shared else range(5):
        if tensors[i] is not None:
            joined[i] = _joined(tensors[i], batched[i], entries, dims[i])
    return (*joined, *geometry[:3], groups if shared else entries * groups)


def _backward_in_channels(
    entries: int,
    grad_output: Tensor,
    folded: tuple[Any, ...],
    tensors: list[Any],
    batched: list[bool],
    wanted: Sequence[bool],
) -> list[Tensor]:
    mask = [wanted[0], wanted[1] or wanted[5], *wanted[2:5], False]
    grads = list(_conv_backward(grad_output, *folded, mask))
    for i, dim in enumerate(_channel_dims(tensors, batched)):
        if mask[i]:
            grads[i] = _split(grads[i], dim, entries)
    if tensors[5] is not None and folded[5] is None and mask[1]:
        weight, s = (_expand(tensors[i], batched[i], entries) for i in (1, 5))
        if wanted[5]:
            grads[5] = (grads[1] * weight).sum((1, 2))
        grads[1] = grads[1] * s[:, None, None] if wanted[1] else grad_output.new_empty(0)
    return grads


def _channel_dims(tensors: list[Any], batched: list[bool]) -> list[int]:
    """Which dimension of each tensor is that of channels or filters, but for the vmapped one."""
    of_c, of_f = (0 if tensors[i] is None else tensors[i].dim() - batched[i] - 1 for i in (3, 4))
    return [1, 0, 0, of_c, of_f, 0]


def _joined(tensor: Tensor, batched: bool, entries: int, dim: int) -> Tensor:
    return _expand(tensor, batched, entries).movedim(0, dim).flatten(dim, dim + 1)


def _split(tensor: Tensor, dim: int, entries: int) -> Tensor:
    return tensor.unflatten(dim, (entries, tensor.size(dim) // max(entries, 1)))  # type: ignore[no-any-return]


def _expand(tensor: Tensor, batched: bool, entries: int) -> Tensor:
    return tensor if batched else tensor.expand(entries, *tensor.shape)


def _is_static(i: int, attention: Tensor, batched: bool) -> bool:
    return kind_of(TENSORS[i], attention, leading_dims=batched) == "static"
