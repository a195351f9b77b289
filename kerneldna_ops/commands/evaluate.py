"""`kerneldna evaluate`: how well a trained network does on the validation images of a data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._files import replacing
from ..env import environment
from ..models import create_model
from ..models.trial import try_out
from ..training import checkpoint
from ..training.accuracy import Scores, score
from ..training.checkpoint import TrainingError
from ..training.data import Data
from ..training.distributed import Processes, setup
from ..training.sources import open_data
from . import options as _options

# Of create_model, all that `kerneldna train` writes into checkpoints.
ARGUMENTS = ("name", "num_classes", "in_channels", "dynamic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="CHECKPOINT_OR_MODEL",
        help="a checkpoint of kerneldna train; or, with --weights, kerneldna_resnet18, torchvision/NAME, timm/NAME ...",
    )
    _options.add_data(parser)
    parser.add_argument("--weights", type=_options.path, metavar="FILE", help="weights of MODEL")
    parser.add_argument("--dynamic", action="store_true", help="MODEL's filter and spatial attention by input too")
    _options.add_image_size(parser, "None: the checkpoint's, else the data's own")
    parser.add_argument("--batch-size", type=_options.positive, default=256)
    _options.add_workers(parser)
    _options.add_computation(parser)
    parser.add_argument("--json", type=_options.path, metavar="FILE", help="write all figures, those of each class too")


def run(options: argparse.Namespace) -> None:
    """Evaluate, on all processes of torchrun if it started this one."""
    with setup(options.device) as processes:
        model, data = _model_and_data(options)
        image = torch.zeros(1, data.channels, data.image_size, data.image_size)
        try_out(model.eval(), options.source, image, data.classes)
        scores = score(
            model.to(processes.device),
            data.validation,
            options.batch_size,
            amp=_options.AMP.get(options.amp),
            channels_last=options.channels_last,
            workers=options.workers,
            processes=processes,
        )
        if processes.first:
            _report(options, data, scores, processes)


def load_network(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network that a checkpoint of `kerneldna train` names, with its weights, and the content of the checkpoint.

    Of create_model's arguments the file may give those that `kerneldna train` writes and no others: some make timm and
    torchvision fetch things.

    Raises:
        TrainingError: the file is missing, damaged, or no checkpoint of a training, or its weights are of another
            network than it names.
    """
    content = checkpoint.load(path)
    network = content["network"]
    if foreign := [name for name in network if name not in ARGUMENTS]:
        raise TrainingError(f"{path}: its network has {foreign[0]!r}, which is not taken from a file")
    try:
        model = create_model(**network)
        model.load_state_dict(content["model"])
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{path}: its network, {network.get('name')}, cannot be built again: {reason}") from error
    return model, content


def _model_and_data(options: argparse.Namespace) -> tuple[nn.Module, Data]:
    path = Path(options.source)
    if not _options.is_file(options.source, options.weights):
        return _named(options)
    for name in ("weights", "dynamic"):
        if getattr(options, name):
            raise ValueError(f"--{name} goes with the name of a model, and {path} is a checkpoint, which has its own")
    model, content = load_network(path)
    trained: Mapping[str, Any] = content["data"]
    data = open_data(options.data, options.image_size or trained["image_size"])
    if data.classes != len(trained["classes"]):
        raise ValueError(f"{path}: a network for {len(trained['classes'])} classes, {options.data} has {data.classes}")
    if data.channels != trained["channels"]:
        raise ValueError(
            f"{path}: a network for images of {trained['channels']} channels, {options.data} has {data.channels}"
        )
    return model, data


def _named(options: argparse.Namespace) -> tuple[nn.Module, Data]:
    if options.weights is None:
        raise ValueError(f"{options.source}: expected a checkpoint that exists, or a model and its --weights")
    data = open_data(options.data, options.image_size)
    arguments: dict[str, Any] = {"num_classes": data.classes}
    if data.channels != 3:  # what a builder may not know
        arguments["in_channels"] = data.channels
    if options.dynamic:
        arguments["dynamic"] = True
    return create_model(options.source, weights=options.weights, **arguments), data


def _report(options: argparse.Namespace, data: Data, scores: Scores, processes: Processes) -> None:
    count = len(data.validation)
    print(
        f"{options.source} on {count:,} validation images of {options.data}: top-1 {scores.top1:.2f} %,"
        f" top-5 {scores.top5:.2f} %, loss {scores.loss:.4f}"
    )
    if options.json is None:
        return
    content = {
        "source": options.source,
        "weights": None if options.weights is None else str(options.weights),
        "data": data.describe(),
        "device": str(processes.device),
        "amp": options.amp,
        **asdict(scores),
        "per_class": dict(zip(data.class_names, scores.per_class, strict=True)),
        "environment": environment(),
    }
    with replacing(options.json) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
