"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
from torch import nn

from .._extras import missing
from . import convnext, mobilenet_v2, resnet
from ._checks import check_counts, need_torchvision
from .weights import load_weights

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    builder.__name__: builder
    for builder in (
        resnet.kerneldna_resnet18,
        resnet.kerneldna_resnet50,
        mobilenet_v2.kerneldna_mobilenet_v2,
        mobilenet_v2.kerneldna_mobilenet_v2_050,
        convnext.kerneldna_convnext_tiny,
    )
}


def list_models() -> list[str]:
    """The names of the networks with shared kernels, for `create_model`."""
    return sorted(BUILDERS)


def create_model(name: str, *, weights: str | PathLike[str] | None = None, **arguments: Any) -> nn.Module:
    """Build a network.

    Args:
        name: one of `list_models()`; or "torchvision/NAME" or "timm/NAME" for a static classification network of
            those libraries.
        weights: a file with its weights; None: at random. Nothing is fetched from the network.
        arguments: the builder's own, num_classes and in_channels for example, whatever a library calls the latter.

    Raises:
        ValueError: there is no network of that name, an argument is out of range, or the weights do not fit.
        ModuleNotFoundError: timm or torchvision is missing, or does not load.
        OSError: the file of the weights cannot be read.
    """
    library, _, static = str(name).partition("/")
    if static and library in LIBRARIES:
        model = LIBRARIES[library](static, arguments)
        if weights is not None:
            load_weights(model, weights)
        return model
    if name not in BUILDERS:
        known = ", ".join(list_models())
        raise ValueError(f"create_model: name must be one of {known}, or timm/NAME or torchvision/NAME, got {name!r}")
    return BUILDERS[name](weights=weights, **arguments)


def _torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    need_torchvision(f"create_model: torchvision/{name}")
    from torchvision import models

    # Its models for dense prediction are elsewhere; they fetch a backbone unless told not to.
    if name not in models.list_models(module=models):
        raise ValueError(f"create_model: torchvision has no classification network named {name!r}")
    channels = arguments.pop("in_channels", 3)
    model: nn.Module = models.get_model(name, **arguments)
    if channels != 3:
        _take_channels(model, channels)
    return model


def _timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except (ImportError, RuntimeError, AttributeError) as error:  # the last two from the torchvision that it imports
        raise missing(f"create_model: timm/{name}: needs timm", "timm", error) from error
    if not timm.is_model(name):
        raise ValueError(f"create_model: timm has no classification network named {name!r}")
    arguments = {"in_chans" if key == "in_channels" else key: value for key, value in arguments.items()}
    model: nn.Module = timm.create_model(name, **arguments)
    return model


def _take_channels(model: nn.Module, channels: int) -> None:
    """Make a network for RGB images, with weights at random, one for others: its first convolution goes by the three
    in turn."""
    check_counts("create_model", in_channels=channels)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.detach()[:, torch.arange(channels) % first.in_channels])
    first.in_channels = channels


LIBRARIES: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {"timm": _timm, "torchvision": _torchvision}
