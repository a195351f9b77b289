"""torch.func.vmap for conv, conv_backward and squeeze_excite.

Attentions are per sample already, so where all entries share the weight, the vmapped dimension joins the samples, which
costs nothing; and so it does where an entry is one sample, with a kernel for each. Other weights of their own, or a
gradient of the weight for each entry, are groups of one convolution: the dimension joins the channels and filters. What
fits into none takes one call per entry: mixtures of weights of their own, spatial attention that differs by entry and
by sample, and inputs that are large.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..call import TENSORS, BackwardCall, Call, Kernels, kind_of, tensors_of

_conv = torch.ops.kerneldna.conv.default
_conv_backward = torch.ops.kerneldna.conv_backward.default
_squeeze_excite = torch.ops.kerneldna.squeeze_excite.default

# Numbers in the input of an entry up to which, on a CPU, a call costs more than to bring entries of many samples
# together as channels. One sample needs no copy.
_WORTH_COPYING = 2**15

_WEIGHT, _KERNEL = TENSORS.index("weight"), TENSORS.index("kernel_attention")

Dims = Sequence[int | None]


def conv(info: Any, in_dims: Dims, *args: Any) -> tuple[Tensor, int]:
    entries, call = info.batch_size, Call(*args)
    nothing = [False] * len(TENSORS)
    tensors, batched = _batch_first(call.tensors, tensors_of(in_dims))
    if _joins_samples(tensors, batched, nothing):
        joined = Call.of(_in_samples(entries, tensors, batched, nothing), call.geometry)
        return _split(_conv(*joined), 0, entries), 0
    folded = _in_channels(entries, tensors, batched, nothing, call.geometry)
    if folded is not None:
        return _split(_conv(*folded), 1, entries), 1
    each = (_conv(*Call.of(_entry(b, tensors, batched), call.geometry)) for b in range(entries))
    return torch.stack(list(each)), 0


def conv_backward(info: Any, in_dims: Dims, *args: Any) -> tuple[tuple[Tensor, ...], Dims]:
    entries = info.batch_size
    grad_output, call, wanted = BackwardCall.of(*args)
    dims = in_dims[0], *tensors_of(in_dims[1:-1])
    (grad_output, *tensors), (grad_batched, *batched) = _batch_first((grad_output, *call.tensors), dims)
    out_dims: Sequence[int]
    if _joins_samples(tensors, batched, wanted):
        grad_output = _expand(grad_output, grad_batched, entries)
        grads = _backward_in_samples(entries, grad_output, tensors, batched, wanted, call.geometry)
        out_dims = [0] * len(grads)
    elif (folded := _in_channels(entries, tensors, batched, wanted, call.geometry)) is not None:
        grad_output = _joined(grad_output, grad_batched, entries, 1)
        grads = _backward_in_channels(entries, grad_output, folded, tensors, batched, wanted)
        out_dims = _channel_dims(tensors, batched)
    else:
        each = [
            _conv_backward(
                grad_output[b] if grad_batched else grad_output,
                *Call.of(_entry(b, tensors, batched), call.geometry),
                wanted,
            )
            for b in range(entries)
        ]
        grads = [torch.stack(grads) for grads in zip(*each, strict=True)]
        out_dims = [0] * len(grads)
    return tuple(grads), tuple(dim if is_wanted else None for dim, is_wanted in zip(out_dims, wanted, strict=True))


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


def _kernels(tensors: list[Any], batched: list[bool]) -> Kernels:
    """Of an entry."""
    if tensors[_KERNEL] is not None:
        return "mixed"
    return "per_sample" if tensors[_WEIGHT].dim() - batched[_WEIGHT] == 5 else "shared"


def _joins_samples(tensors: list[Any], batched: list[bool], wanted: Sequence[bool]) -> bool:
    """Whether the samples of all entries make one call. A weight for each entry is one for each of the samples, where
    an entry has one sample."""
    if not (batched[_WEIGHT] or wanted[_WEIGHT]):
        return True
    kernels, samples = _kernels(tensors, batched), tensors[0].size(int(batched[0]))
    return kernels == "per_sample" or (kernels == "shared" and samples == 1)


def _in_samples(entries: int, tensors: list[Any], batched: list[bool], wanted: Sequence[bool]) -> list[Any]:
    """The tensors of one call for all samples of all entries.

    What is static and has an entry each, or whose gradient is wanted, becomes one per sample.
    """
    samples = tensors[0].size(int(batched[0]))
    folded = []
    for i, (tensor, is_batched) in enumerate(zip(tensors, batched, strict=True)):
        if tensor is not None:
            shared = i == _WEIGHT and _kernels(tensors, batched) != "per_sample"
            if shared and (is_batched or wanted[i]):  # by _joins_samples: one sample in an entry
                tensor = _expand(tensor, is_batched, entries)
            elif not shared:
                static = _is_static(i, tensor, is_batched)
                if is_batched or wanted[i] or not static:
                    tensor = _expand(tensor, is_batched, entries)
                    if static:
                        tensor = tensor[:, None].expand(-1, samples, *tensor.shape[1:])
                    tensor = tensor.flatten(0, 1)
        folded.append(tensor)
    return folded


def _backward_in_samples(
    entries: int,
    grad_output: Tensor,
    tensors: list[Any],
    batched: list[bool],
    wanted: Sequence[bool],
    geometry: Sequence[Any],
) -> list[Tensor]:
    joined = Call.of(_in_samples(entries, tensors, batched, wanted), geometry)
    grads = list(_conv_backward(grad_output.flatten(0, 1), *joined, wanted))
    for i, is_wanted in enumerate(wanted):
        if is_wanted and not (i == _WEIGHT and _kernels(tensors, batched) == "shared"):
            grads[i] = _split(grads[i], 0, entries)
            if _is_static(i, tensors[i], batched[i]):
                grads[i] = grads[i].sum(1)
    return grads


def _in_channels(
    entries: int, tensors: list[Any], batched: list[bool], wanted: Sequence[bool], geometry: Sequence[Any]
) -> Call | None:
    """The arguments of one call for the channels and filters of all entries, or None where one does not fit or pay.

    Spatial attention that differs by entry, or whose gradient does, becomes a factor of the weight.
    """
    if _kernels(tensors, batched) != "shared" or _bias_per_sample(tensors, batched):
        return None
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
            [tensors[0], weight * s[:, None, None], *tensors[2:5], None, None],
            [batched[0], True, *batched[2:]],
        )
        joined[5] = None
    for i in (1, 2, 4) if shared else range(5):
        if tensors[i] is not None:
            joined[i] = _joined(tensors[i], batched[i], entries, dims[i])
    return Call.of(joined, (*geometry[:3], groups if shared else entries * groups))


def _backward_in_channels(
    entries: int,
    grad_output: Tensor,
    folded: Call,
    tensors: list[Any],
    batched: list[bool],
    wanted: Sequence[bool],
) -> list[Tensor]:
    mask = [wanted[0], wanted[1] or wanted[5], *wanted[2:5], False, False]
    grads = list(_conv_backward(grad_output, *folded, mask))
    for i, dim in enumerate(_channel_dims(tensors, batched)):
        if mask[i]:
            grads[i] = _split(grads[i], dim, entries)
    if tensors[5] is not None and folded.spatial_attention is None and mask[1]:
        weight, s = (_expand(tensors[i], batched[i], entries) for i in (1, 5))
        if wanted[5]:
            grads[5] = (grads[1] * weight).sum((1, 2))
        grads[1] = grads[1] * s[:, None, None] if wanted[1] else grad_output.new_empty(0)
    return grads


def _channel_dims(tensors: list[Any], batched: list[bool]) -> list[int]:
    """Which dimension of each tensor is that of channels or filters, but for the vmapped one."""
    of_c, of_f = (0 if tensors[i] is None else tensors[i].dim() - batched[i] - 1 for i in (3, 4))
    return [1, 0, 0, of_c, of_f, 0, 0]


def _joined(tensor: Tensor, batched: bool, entries: int, dim: int) -> Tensor:
    return _expand(tensor, batched, entries).movedim(0, dim).flatten(dim, dim + 1)


def _split(tensor: Tensor, dim: int, entries: int) -> Tensor:
    return tensor.unflatten(dim, (entries, tensor.size(dim) // max(entries, 1)))  # type: ignore[no-any-return]


def _expand(tensor: Tensor, batched: bool, entries: int) -> Tensor:
    return tensor if batched else tensor.expand(entries, *tensor.shape)


def _bias_per_sample(tensors: list[Any], batched: list[bool]) -> bool:
    return tensors[2] is not None and not _is_static(2, tensors[2], batched[2])


def _is_static(i: int, tensor: Tensor, batched: bool) -> bool:
    """Of the bias and the attentions; all else is one for each sample."""
    name = TENSORS[i]
    return i in range(2, _KERNEL) and kind_of(name, tensor, leading_dims=batched) == "static"
