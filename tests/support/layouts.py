"""The same values laid out in memory in every way that a caller may hand over: name -> (tensor -> tensor).

What lies in memory around a slice is NaN, so that reading past a tensor shows. `expanded` alone changes the values: it
repeats the first slice along a dimension of stride 0.
"""

import mmap
from collections.abc import Callable

import torch
from torch import Tensor

Layout = Callable[[Tensor], Tensor]


def channels_last(tensor: Tensor) -> Tensor:
    """Of several weights, each."""
    if tensor.dim() == 5:
        return channels_last(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])
    return tensor.contiguous(memory_format=torch.channels_last)


def sliced(tensor: Tensor) -> Tensor:
    """The interior of a bigger tensor: no dimension is dense and the first element is not aligned."""
    bigger = tensor.new_full([size + 3 for size in tensor.shape], torch.nan)
    inner = bigger[tuple(slice(1, 1 + size) for size in tensor.shape)]
    return inner.copy_(tensor)


def strided(tensor: Tensor) -> Tensor:
    """Every second element of a wider tensor: the last dimension has stride 2."""
    wider = tensor.new_full([*tensor.shape[:-1], 2 * tensor.size(-1)], torch.nan)
    return wider[..., ::2].copy_(tensor)


def reversed_dimensions(tensor: Tensor) -> Tensor:
    """Dense, but with the dimensions in the opposite order."""
    return tensor.permute(*range(tensor.dim())[::-1]).contiguous().permute(*range(tensor.dim())[::-1])


def transposed(tensor: Tensor) -> Tensor:
    """A view of the transposed matrix: [I, O, kh, kw] for a weight [O, I, kh, kw]."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


def channels_last_sliced(tensor: Tensor) -> Tensor:
    """Some channels of a wider channels_last tensor, as torch.split and torch.chunk give them."""
    batch, channels, height, width = tensor.shape
    wider = channels_last(tensor.new_full((batch, channels + 5, height, width), torch.nan))
    return wider[:, 2 : 2 + channels].copy_(tensor)


def far_apart(tensor: Tensor) -> Tensor:
    """The first dimension has a stride of 2**31, in memory that nobody touches in between, so that it is not real."""
    inner = tensor[0].numel()
    memory = mmap.mmap(-1, ((len(tensor) - 1) * 2**31 + inner) * tensor.itemsize)
    all_of_it = torch.frombuffer(memory, dtype=tensor.dtype)
    return all_of_it.as_strided(tensor.shape, (2**31, *tensor[0].stride())).copy_(tensor)


def expanded_batch(tensor: Tensor) -> Tensor:
    return tensor[:1].expand_as(tensor)


def expanded_pixels(tensor: Tensor) -> Tensor:
    return tensor[..., :1, :1].expand_as(tensor)


def expanded_fully(tensor: Tensor) -> Tensor:
    """What `output.sum().backward()` hands to the backward of the convolution."""
    return tensor[(slice(1),) * tensor.dim()].expand_as(tensor)


IMAGES: dict[str, Layout] = {
    "contiguous": Tensor.contiguous,
    "channels_last": channels_last,
    "sliced": sliced,
    "strided": strided,
    "permuted": reversed_dimensions,
    "channels_last_sliced": channels_last_sliced,
    "expanded_batch": expanded_batch,
    "expanded_pixels": expanded_pixels,
}
WEIGHTS: dict[str, Layout] = {
    "contiguous": Tensor.contiguous,
    "channels_last": channels_last,
    "sliced": sliced,
    "transposed": transposed,
    "permuted": reversed_dimensions,
    "expanded_pixels": expanded_pixels,
}
VECTORS: dict[str, Layout] = {
    "contiguous": Tensor.contiguous,
    "sliced": sliced,
    "strided": strided,
    "permuted": reversed_dimensions,
    "expanded": expanded_batch,
}
GRADIENTS: dict[str, Layout] = {
    "contiguous": Tensor.contiguous,
    "channels_last": channels_last,
    "sliced": sliced,
    "permuted": reversed_dimensions,
    "expanded_pixels": expanded_pixels,
    "expanded_fully": expanded_fully,
}
