"""`kerneldna train`: a network by its name, a data set by its place, a recipe by its name."""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace
from typing import Any

import torch

from ..models import count_parameters, create_model
from ..models.trial import try_out
from ..training.data import Data
from ..training.distributed import Processes, setup
from ..training.recipes import RECIPES, Recipe
from ..training.sources import open_data
from ..training.trainer import Trainer
from . import options as _options

# Options that replace a number of the recipe.
OVERRIDES: dict[str, tuple[type, str]] = {
    "epochs": (int, "passes over the training images"),
    "batch_size": (int, "images of a step, all processes together"),
    "learning_rate": (float, "the highest"),
    "weight_decay": (float, "of every parameter"),
    "label_smoothing": (float, "from 0 to below 1"),
    "ema_decay": (float, "of an exponential moving average of the weights"),
    "warmup_epochs": (float, "epochs until the learning rate is at its highest"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="kerneldna_resnet18, ..., or a static network: torchvision/NAME, timm/NAME"
    )
    _options.add_data(parser)
    parser.add_argument("--recipe", required=True, choices=RECIPES, help="numbers to train by")
    parser.add_argument(
        "--output", required=True, type=_options.path, metavar="FOLDER", help="goes on from what is in there"
    )
    for name, (kind, help) in OVERRIDES.items():
        # No default to show: it is the recipe's.
        parser.add_argument(_option(name), type=kind, default=argparse.SUPPRESS, help=f"{help} (the recipe's)")
    parser.add_argument("--dynamic", action="store_true", help="filter and spatial attention from the input too")
    parser.add_argument(
        "--weights", type=_options.path, metavar="FILE", help="to start from, not at random; last.pt counts"
    )
    _options.add_image_size(parser, "side of the images; None: as they are")
    _options.add_workers(parser)
    parser.add_argument(
        "--seed",
        type=_options.whole(0, _options.MOST_SEED),
        default=0,
        help="of initial weights, order, augmentation and dropout",
    )
    parser.add_argument(
        "--save-every", type=_options.seconds, default=600.0, metavar="SECONDS", help="also within an epoch"
    )
    _options.add_computation(parser)
    parser.add_argument("--fsdp", action="store_true", help="under torchrun, share out parameters too (FSDP2)")
    parser.add_argument(
        "--sync-batchnorm", action="store_true", help="under torchrun, BatchNorm over all processes' images; CUDA only"
    )


def run(options: argparse.Namespace) -> int:
    """Train; 0, or 130 if Ctrl-C stopped it."""
    with setup(options.device) as processes:
        own = {name: value for name, value in vars(options).items() if name in OVERRIDES}
        recipe = replace(RECIPES[options.recipe], **own)
        data = open_data(options.data, options.image_size)
        network = _network(options, data)
        torch.manual_seed(options.seed)
        model = create_model(**network, weights=options.weights)
        images = torch.zeros(
            min(2, processes.share_of(recipe.batch_size)), data.channels, data.image_size, data.image_size
        )
        try_out(copy.deepcopy(model), options.model, images, data.classes)
        trainer = Trainer(
            model,
            data,
            recipe,
            options.output,
            network=network,
            seed=options.seed,
            amp=_options.AMP.get(options.amp),
            channels_last=options.channels_last,
            workers=options.workers,
            save_every=options.save_every,
            processes=processes,
            kind="fsdp" if options.fsdp else "ddp",
            sync_batchnorm=options.sync_batchnorm,
        )
        if processes.first:
            print(_plan(options, data, recipe, count_parameters(model), processes), flush=True)
        try:
            result = trainer.run()
        except KeyboardInterrupt as stopped:
            if processes.first:
                print(str(stopped) or f"Stopped; {options.output} keeps what was saved before.", file=sys.stderr)
            return 130
        if processes.first:
            print(
                f"Finished {result.epochs} epochs in {result.seconds:.0f} s: validation accuracy"
                f" {result.last_accuracy:.2f} %, at best {result.best_accuracy:.2f} % ({result.checkpoint}).\n"
                f"To measure it again: kerneldna evaluate {result.checkpoint} --data {options.data}"
            )
    return 0


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _network(options: argparse.Namespace, data: Data) -> dict[str, Any]:
    """The arguments of create_model; what a builder may not know only where it differs from its default."""
    network: dict[str, Any] = {"name": options.model, "num_classes": data.classes}
    if data.channels != 3:
        network["in_channels"] = data.channels
    if options.dynamic:
        if "/" in options.model:
            raise ValueError(f"--dynamic: expected a network with shared kernels, got {options.model}")
        network["dynamic"] = True
    return network


def _plan(options: argparse.Namespace, data: Data, recipe: Recipe, parameters: int, processes: Processes) -> str:
    average = "" if recipe.ema_decay is None else f", weights averaged with decay {recipe.ema_decay:g}"
    several = "" if processes.world_size == 1 else f" in each of {processes.world_size} processes"
    return (
        f"{options.model}: {parameters:,} parameters, on {processes.device}{several}\n"
        f"{options.data}: {len(data.train):,} images to train on, {len(data.validation):,} for validation,"
        f" {data.classes} classes, {data.channels}x{data.image_size}x{data.image_size}\n"
        f"{options.recipe}: {recipe.epochs} epochs, batches of {recipe.batch_size}, learning rate up to"
        f" {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}{average}\n"
        f"{options.output}: checkpoints and logs; Ctrl-C saves, and the same command goes on"
    )
