"""Keeps a tensor that was computed from parameters until one of them changes."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


def in_training(*tensors: Tensor) -> bool:
    """Whether autograd has to see what is computed from these tensors, or a gradient waits to be applied to one.

    What is folded from such tensors must not be kept: optimizers that are fused, or write through `.data`, change them
    in a way that PyTorch does not count.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return any(tensor.is_leaf and tensor.grad is not None for tensor in tensors)


class FoldCache(Generic[Value]):
    """The value computed last and the tensors it came from, its sources.

    A source has changed when it is another tensor, when its memory is another (`.data = ...`, `.to()`), or when it was
    written to in place, as load_state_dict does. Only a write that PyTorch does not count escapes, through `.data` for
    example. Therefore the layers keep nothing in training, and train(), eval() and to() drop the value in any case.

    It has no part in what a module is: copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._held: tuple[Value, list[tuple[Tensor, Tensor, int]]] | None = None

    def get(self, compute: Callable[[], Value], *sources: Tensor) -> Value:
        """compute(), which reads the sources, without gradient. Kept where PyTorch can tell when a source changes."""
        held = self._held
        try:
            if held is not None and all(map(_unchanged, held[1], sources)):
                return held[0]
            # An alias keeps the memory from being freed and given to a tensor with other values.
            snapshot = [(source, source.detach(), source._version) for source in sources]
        except RuntimeError:  # inference tensors count no writes, those inside torch.func.vmap have no memory
            return compute()
        # A tensor made in inference mode could not be used outside of it later.
        with torch.inference_mode(False), torch.no_grad():
            value = compute()
        # A graph under capture keeps the address of what it reads, which must not depend on this cache.
        if not (sources[0].is_cuda and torch.cuda.is_current_stream_capturing()):
            self._held = value, snapshot
        return value

    def clear(self) -> None:
        self._held = None

    def __reduce__(self) -> tuple[type["FoldCache[Value]"], tuple[()]]:
        return type(self), ()


def _unchanged(known: tuple[Tensor, Tensor, int], source: Tensor) -> bool:
    tensor, alias, version = known
    return tensor is source and alias.is_set_to(source) and version == source._version
