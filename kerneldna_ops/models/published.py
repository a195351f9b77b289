"""The names that the authors' checkpoints use, and ours.

Our networks keep torchvision's names: a stage is a sequence of blocks, and a child stands where the convolution would
that it replaces. The authors name the parts of a stage that shares kernels otherwise, and keep the static attentions of
all its children in one parameter. Our networks load both; `to_published` gives theirs. The tables stand beside the
networks, as `PublishedNames`; what no table names, the stem for example, is called the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_SE_WEIGHTS = (".adapter.se.fc1.weight", ".adapter.se.fc2.weight")


@dataclass(frozen=True)
class PublishedNames:
    """How the authors name the parts of one network.

    Args:
        modules: their module -> ours, one to one, and fine enough to be read backwards. Of several that a name begins
            with, the longest counts. None of our names may begin with one of theirs.
        filter_attention: their parameter [children, C, 1, 1, 1] -> our ChildConv2d layers, in its order.
        spatial_attention: their parameter [children, 1, 1, kh, kw] -> our ChildConv2d layers, in its order.
    """

    modules: Mapping[str, str]
    filter_attention: Mapping[str, tuple[str, ...]]
    spatial_attention: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, state: MutableMapping[str, Any], prefix: str = "") -> None:
        """Put our names, in place, for the authors' behind `prefix`. What is neither theirs nor ours stays as it is.

        Raises:
            RuntimeError: something stands there under both names.
        """
        for name in [name for name in state if name.startswith(prefix)]:
            value = state[name]
            entries = list(self._read_entry(name.removeprefix(prefix), value))
            if [prefix + ours for ours, _ in entries] == [name]:
                continue
            del state[name]
            for ours, part in entries:
                if prefix + ours in state:
                    raise RuntimeError(f"the state_dict has {prefix}{ours} twice, the other time as {name}")
                state[prefix + ours] = part

    def write(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state_dict in our names as the authors'. KeyError if an attention of the table is not in it."""
        state = dict(state)
        published: dict[str, Any] = {}
        for name, children, attention in self._attentions():
            value = torch.stack([state.pop(f"{child}.adapter.{attention}") for child in children])
            published[name] = value[:, None, None] if attention == "spatial_attention" else value[..., None, None, None]
        theirs = {ours: module for module, ours in self.modules.items()}
        for ours, value in state.items():
            published[_renamed(ours, theirs)] = value[..., None, None] if ours.endswith(_SE_WEIGHTS) else value
        return published

    def _read_entry(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """One of the authors' entries as ours: (name, value), one for each child where it is an attention."""
        is_tensor = isinstance(value, Tensor)
        for stacked, children, attention in self._attentions():
            if name == stacked and is_tensor and value.dim() == 5 and len(value) == len(children):
                for child, own in zip(children, value, strict=True):
                    own = own.flatten(0, 2) if attention == "spatial_attention" else own.flatten()
                    yield f"{child}.adapter.{attention}", own
                return
        ours = _renamed(name, self.modules)
        is_1x1 = is_tensor and ours.endswith(_SE_WEIGHTS) and value.shape[2:] == (1, 1)
        yield ours, value.flatten(1) if is_1x1 else value

    def _attentions(self) -> Iterator[tuple[str, tuple[str, ...], str]]:
        for name, children in self.filter_attention.items():
            yield name, children, "filter_attention"
        for name, children in self.spatial_attention.items():
            yield name, children, "spatial_attention"


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = modules.get(".".join(parts[:length]))
        if module is not None:
            return ".".join([module, *parts[length:]])
    return name
