"""`kerneldna cka`: how alike the layers of a network are, and which of them could share a kernel."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..analysis.gram import FEWEST_SAMPLES
from ..analysis.groups import check_limits, suggest_groups
from ..analysis.heatmaps import plot_heatmaps
from ..analysis.similarity import CKA, cka, compare
from ..analysis.tables import to_plain, write_csv, write_json
from ..env import environment
from . import options as _options

if TYPE_CHECKING:
    from ..training.data import Data, Split

SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="kerneldna_resnet18, ..., torchvision/NAME, timm/NAME, or a file of kerneldna train",
    )
    parser.add_argument(
        "--weights", type=_options.path, metavar="FILE", help="MODEL's weights; without, a name has random ones"
    )
    parser.add_argument("--after", metavar="MODEL", help="another one to compare with, for example one that shares")
    parser.add_argument("--after-weights", type=_options.path, metavar="FILE", help="the other one's weights")
    _options.add_data(parser)
    parser.add_argument(
        "--images", type=_options.positive, default=512, help="how many for validation to take, at random"
    )
    parser.add_argument("--batch-size", type=_options.positive, default=64, help="at least 4")
    _options.add_image_size(parser, "side of images; None: a file's, else the data's")
    parser.add_argument(
        "--num-classes", type=_options.positive, help="of the networks that are named; None: the data's"
    )
    parser.add_argument("--threshold", type=float, default=0.9, help="the least CKA within a group that could share")
    parser.add_argument("--max-size", type=int, default=4, help="the most layers in such a group")
    _options.add_device(parser, "cpu, cuda or cuda:1")
    parser.add_argument(
        "--output", type=_options.path, default=Path("runs/cka"), metavar="FOLDER", help="for the results"
    )


def run(options: argparse.Namespace) -> None:
    """Measure, and write CKA as CSV, JSON and PNG, and groups of layers of MODEL that could share a kernel as JSON."""
    from ..training.distributed import setup
    from ..training.sources import open_data
    from .evaluate import load_network

    if options.after_weights is not None and options.after is None:
        raise ValueError("--after-weights needs --after, the model that the weights are for")
    check_limits(options.threshold, options.max_size)
    options.output.mkdir(parents=True, exist_ok=True)
    given = ((options.model, options.weights), (options.after, options.after_weights))
    files = {name: load_network(Path(name)) for name, weights in given if name and _options.is_file(name, weights)}
    sizes = [content["data"]["image_size"] for _, content in files.values()]
    data = open_data(options.data, options.image_size or next(iter(sizes), None))
    with setup(options.device) as processes:
        batches = _Batches(data.validation, options.images, options.batch_size, processes.device)
        before = _network(options.model, options.weights, options.num_classes, data, files).to(processes.device)
        if options.after is None:
            maps = {"cka": cka(before, batches, progress=True)}
        else:
            after = _network(options.after, options.after_weights, options.num_classes, data, files)
            after = after.to(processes.device)
            compared = compare(before, after, batches, progress=True)
            maps = {"before": compared.before, "after": compared.after, "across": compared.across}
    groups = suggest_groups(next(iter(maps.values())), before, options.threshold, options.max_size)
    _write(options, data, maps, groups)


class _Batches:
    """`images` images of `split`, chosen at random but the same every time, in batches on `device`."""

    def __init__(self, split: Split, images: int, batch_size: int, device: torch.device) -> None:
        if images > len(split):
            raise ValueError(f"--images must be at most the {len(split)} validation images there are, got {images}")
        if min(batch_size, images) < FEWEST_SAMPLES or 0 < images % batch_size < FEWEST_SAMPLES:
            raise ValueError(
                f"--images and --batch-size must make batches of at least {FEWEST_SAMPLES}, the last one too, got"
                f" {images} and {batch_size}"
            )
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SEED))
        self._chosen = order[:images].split(batch_size)
        self._split = split
        self._device = device

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Tensor]:
        for indices in self._chosen:
            yield self._split.load(indices)[0].to(self._device)


def _network(
    name: str,
    weights: Path | None,
    num_classes: int | None,
    data: Data,
    files: Mapping[str, tuple[nn.Module, dict[str, Any]]],
) -> nn.Module:
    from ..models import create_model
    from ..models.trial import try_out

    if name not in files:
        torch.manual_seed(SEED)
        classes = num_classes or data.classes
        model = create_model(name, weights=weights, num_classes=classes, in_channels=data.channels)
    elif weights is not None:
        raise ValueError(
            f"--weights and --after-weights are for the names of networks, and {name} is a file with weights of its own"
        )
    else:
        model, content = files[name]
        classes = len(content["data"]["classes"])
        if content["data"]["channels"] != data.channels:
            raise ValueError(
                f"{name}: a network for images of {content['data']['channels']} channels, those of {data.name} have"
                f" {data.channels}"
            )
    try_out(model.eval(), name, torch.zeros(1, data.channels, data.image_size, data.image_size), classes)
    return model


def _write(options: argparse.Namespace, data: Data, maps: dict[str, CKA], groups: dict[str, list[str]]) -> None:
    folder: Path = options.output
    setting = {
        "model": options.model,
        "weights": _text(options.weights),
        "after": options.after,
        "after_weights": _text(options.after_weights),
        "data": data.name,
        "images": options.images,
        "batch_size": options.batch_size,
        "image_size": data.image_size,
        "seed": SEED,
        "threshold": options.threshold,
        "max_size": options.max_size,
        "environment": environment(),
    }
    write_json(folder / "cka.json", {"setting": setting, **{name: to_plain(each) for name, each in maps.items()}})
    write_json(folder / "groups.json", groups)
    for name, each in maps.items():
        write_csv(folder / f"{name}.csv", each)
    written = ["cka.json", "groups.json", *(f"{name}.csv" for name in maps), "cka.png"]
    model, after = _title(options.model, options.weights), _title(options.after, options.after_weights)
    titles = {"cka": model, "before": f"before: {model}", "after": f"after: {after}"}
    plot_heatmaps(folder / "cka.png", {titles[name]: each for name, each in maps.items() if name in titles})
    if "across" in maps:
        plot_heatmaps(folder / "across.png", {f"{model} (rows), {after} (columns)": maps["across"]})
        written.append("across.png")
    print(_sentence(groups, options))
    for name in written:
        print(folder / name)


def _sentence(groups: dict[str, list[str]], options: argparse.Namespace) -> str:
    if not groups:
        return f"No layers of {options.model} of equal shape have a CKA of at least {options.threshold}."
    lines = [f"Layers of {options.model} that could share a kernel, the parent first:"]
    return "\n".join([*lines, *(f"  {', '.join([parent, *children])}" for parent, children in groups.items())])


def _title(name: str | None, weights: Path | None) -> str:
    return f"{name}, random weights" if name and weights is None and not _options.is_file(name) else str(name)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
