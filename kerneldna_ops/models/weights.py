"""Weights from a file into a network, all of them or none."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import check_whole
from .network import Network, check_fits

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and DistributedDataParallel, and of torch.compile


def load_weights(model: nn.Module, path: str | PathLike[str]) -> None:
    """Load the state_dict in a file into `model`, in place. For a Network in our names or the authors'.

    The file may hold a checkpoint, which has the state_dict under "state_dict" or "model", and one of a model inside
    DataParallel or torch.compile. It is read with weights_only=True: no code in it runs.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no weights, or those of another network. The model is as before.
    """
    state = read_weights(path)
    try:
        if not isinstance(model, Network):
            check_fits(type(model).__name__, model, state)
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None


def load_trunk(network: Network, path: str | PathLike[str]) -> None:
    """As `load_weights`, of a network with any number of classes: the classifier keeps its own weights."""
    own = network.state_dict()
    head = {key: own[key] for key in (f"{network.head}.weight", f"{network.head}.bias")}
    try:
        network.load_state_dict({**read_weights(path), **head})
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None


def read_weights(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The state_dict in a file, on the CPU. Arguments and errors are those of `load_weights`."""
    path = Path(path)
    try:
        check_whole(path)
        # timm's and torchvision's training scripts put their arguments into a checkpoint.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds a {unsafe[1]}" if unsafe else "it is damaged, or something else"
        raise ValueError(f"{path}: expected tensors and plain values that torch.save wrote, but {reason}") from error
    while isinstance(content, Mapping) and (wrapper := _wrapper(content)):
        content = content[wrapper]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        got = type(content).__name__
        if isinstance(content, Mapping):
            got = f"the entries {', '.join(map(repr, content))}" if content else "no entries"
        raise ValueError(f"{path}: expected a state_dict, or one under 'state_dict' or 'model', got {got}")
    return _without_prefix(content)


def _wrapper(content: Mapping[Any, Any]) -> str | None:
    return next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)


def _without_prefix(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    state = {str(name): value for name, value in state.items()}
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
