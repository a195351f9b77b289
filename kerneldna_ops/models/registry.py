"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
from torch import nn

from . import convnext, mobilenet_v2, resnet
from ._arguments import check_counts
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
LIBRARIES = ("timm", "torchvision")


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
        model = _static(library, static, arguments)
        if weights is not None:
            load_weights(model, weights)
        return model
    if name not in BUILDERS:
        known = ", ".join(list_models())
        raise ValueError(f"create_model: name must be one of {known}, or timm/NAME or torchvision/NAME, got {name!r}")
    return BUILDERS[name](weights=weights, **arguments)


def _static(library: str, name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        if library == "timm":
            import timm

            known = timm.is_model(name)
        else:
            import torchvision

            # Its models for dense prediction fetch a backbone unless told not to.
            known = name in torchvision.models.list_models(module=torchvision.models)
    except (ImportError, RuntimeError, AttributeError) as error:
        # torchvision built for another torch fails with RuntimeError as soon as it is imported.
        raise ModuleNotFoundError(
            f"create_model: {library}/{name} needs {library}, which cannot be imported: {error}"
        ) from error
    if not known:
        raise ValueError(f"create_model: {library} has no classification network named {name!r}")
    if library == "timm":
        arguments = {"in_chans" if key == "in_channels" else key: value for key, value in arguments.items()}
        model: nn.Module = timm.create_model(name, **arguments)
        return model
    channels = arguments.pop("in_channels", 3)
    model = torchvision.models.get_model(name, **arguments)
    if channels != 3:
        _take_channels(model, channels)
    return model


def _take_channels(model: nn.Module, channels: int) -> None:
    """Make a network for RGB images, with weights at random, one for others: its first convolution goes by the three
    in turn."""
    check_counts("create_model", in_channels=channels)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.detach()[:, torch.arange(channels) % first.in_channels])
    first.in_channels = channels
