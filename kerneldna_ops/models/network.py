"""What the networks with shared kernels have in common: which state_dicts they load, what they say of others, and which
of their layers start from random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..nn import SqueezeExcite
from .published import PublishedNames


class Network(nn.Module):
    """A network that loads state_dicts in our names and in the authors', whole or not at all.

    Args:
        name: the builder's, for messages.
        published: how the authors name its parts; None if they have not published it, as the dynamic variants.

    Attributes:
        num_classes: of the scores [N, num_classes] that `forward` gives for images.
        num_features: channels of the map [N, num_features, H/32, W/32] between forward_features and forward_head.
        feature_channels: module -> channels of its map, for the last map of each resolution from H/4 on.
        head: the name of the last layer, the only one whose shape depends on num_classes.
    """

    num_classes: int
    num_features: int
    feature_channels: dict[str, int]
    head: str

    def __init__(self, name: str, published: PublishedNames | None) -> None:
        super().__init__()
        self.name = name
        self.published = published

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of nn.Module, in our names or the authors', but what does not fit leaves the network as it was.

        Raises:
            RuntimeError: one sentence that says what does not fit.
            TypeError: it is no mapping.
        """
        if not isinstance(state_dict, Mapping):
            got = type(state_dict).__name__
            raise TypeError(f"{self.name}: state_dict must be a mapping from names to tensors, got {got}")
        state = dict(state_dict)
        if self.published is not None:
            self.published.read(state)
        check_fits(self.name, self, state, strict)
        return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Here, and not above, so that it is done also where this network is a part of another module.
        if self.published is not None:
            self.published.read(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def to_published(model: Network) -> dict[str, Any]:
    """The state_dict of a network under the authors' names, as their code loads it with strict=True.

    `model.published` is the table of the names; loading goes by the same.

    Raises:
        ValueError: the authors have not published this network, a dynamic variant for example or one with another norm
            than BatchNorm in the squeeze-excites, or its children have been replaced.
    """
    published = getattr(model, "published", None)
    gates = [module for module in model.modules() if isinstance(module, SqueezeExcite)]
    if published is None or not all(isinstance(gate.bn, _BatchNorm) for gate in gates):
        name = getattr(model, "name", type(model).__name__)
        raise ValueError(f"to_published: the authors have not published this form of {name}")
    try:
        return published.write(model.state_dict())  # type: ignore[no-any-return]
    except KeyError as missing:
        raise ValueError(f"to_published: {model.name} is not as published any more, it has no {missing}") from None


def check_fits(name: str, model: nn.Module, state: Mapping[str, Any], strict: bool = True) -> None:
    """Raises a RuntimeError of one sentence unless `model.load_state_dict(state, strict)` goes through."""
    own = model.state_dict()
    # BatchNorm fills in the counter that old checkpoints lack.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    if strict and (missing or unknown):
        parts = [f"{len(missing)} entries are missing (the first is {missing[0]})"] if missing else []
        parts += [f"{len(unknown)} are unknown (the first is {unknown[0]})"] if unknown else []
        raise RuntimeError(f"{name}: the state_dict is incomplete or of another network: {', '.join(parts)}")
    for key, value in own.items():
        if key in state and isinstance(value, Tensor):
            _check_entry(name, model, key, value, state[key])


def _check_entry(name: str, model: nn.Module, key: str, own: Tensor, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise RuntimeError(f"{name}: {key} must be a tensor in the state_dict, got {type(value).__name__}")
    if value.shape == own.shape:
        return
    sentence = f"{name}: {key} has shape {list(value.shape)} in the state_dict and {list(own.shape)} in the network"
    classifiers = [layer for layer, module in model.named_modules() if isinstance(module, nn.Linear)]
    if classifiers and key.rpartition(".")[0] == classifiers[-1] and value.shape[1:] == own.shape[1:]:
        sentence += f", build it with num_classes={value.shape[0]}"
    raise RuntimeError(sentence)


def weighted_layers(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """The convolutions, and both layers of the squeeze-excites, which the published networks write as convolutions.

    Not the classifier, and not the heads of dynamic attention, which start at zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            yield module
        elif isinstance(module, SqueezeExcite):
            yield module.fc1
            yield module.fc2
