"""`kerneldna throughput` and `kerneldna latency`: the same measurement, told in images a second or milliseconds."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from .._files import replacing
from ..env import environment
from ..measure.time import Spread
from .options import add_computation, add_image_size, path, positive, whole
from .speed import Setting, Speed, measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of both commands."""
    parser.add_argument("model", metavar="MODEL", help="kerneldna_resnet18, ..., torchvision/NAME or timm/NAME")
    parser.add_argument("--against", metavar="MODEL", help="another one, which takes turns with it")
    parser.add_argument("--batch-size", type=positive, default=128)
    add_image_size(parser, "side of the images", default=224)
    parser.add_argument("--warmups", type=positive, default=50, help="forward passes that do not count")
    parser.add_argument("--iterations", type=whole(2), default=1000, help="forward passes that do, at least 2")
    add_computation(parser, "cpu, cuda or cuda:1")
    parser.add_argument("--compile", action="store_true", help="by torch.compile, in its default mode")
    threads = torch.get_num_threads()
    parser.add_argument(
        "--threads", type=whole(1, max(threads, os.cpu_count() or 1)), default=threads, help="of torch on a CPU"
    )
    parser.add_argument("--num-classes", type=positive, default=1000)
    parser.add_argument("--in-channels", type=positive, default=3)
    parser.add_argument(
        "--dynamic", action="store_true", help="MODEL's filter and spatial attention from the input too"
    )
    parser.add_argument("--json", type=path, metavar="FILE", help="write all figures, and what they were measured on")


def run(options: argparse.Namespace) -> None:
    setting = Setting(
        options.batch_size,
        options.image_size,
        options.in_channels,
        _device(options.device),
        options.amp,
        options.channels_last,
        options.compile,
        options.threads,
    )
    networks = _networks(options)
    print(_headline(setting, options), flush=True)
    with _bar(options.warmups + options.iterations) as advance:
        speeds, rounds = measure(networks, setting, options.warmups, options.iterations, advance)
    lines = {"throughput": _throughput, "latency": _latency}[options.command]
    for name, speed in speeds.items():
        print(f"{name}: {_size(speed)}\n  {lines(speed.figures())}")
    compared = None
    if options.against is not None:
        compared = rounds.ratio(options.model, options.against)
        print(
            f"{options.model} takes {compared.median:.3f} times as long as {options.against}"
            f" (quartiles {compared.low:.3f} to {compared.high:.3f})"
        )
    if options.json is not None:
        _write(options, setting, speeds, compared)


def _networks(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The arguments of create_model for each; what a builder may not know only where it differs from its default."""
    networks: dict[str, dict[str, Any]] = {}
    for model in (options.model, options.against):
        if model is not None:
            networks[model] = {"name": model, "num_classes": options.num_classes}
            if options.in_channels != 3:
                networks[model]["in_channels"] = options.in_channels
    if options.against == options.model:
        raise ValueError(f"--against must be another model than {options.model}")
    if options.dynamic:
        networks[options.model]["dynamic"] = True
    return networks


def _device(name: str) -> str:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) < count:
        torch.cuda.set_device(device)
        return name
    if device.type != "cpu":
        raise ValueError(f"--device must be cpu or one of the {count} CUDA devices there are, got {name!r}")
    return name


@contextmanager
def _bar(rounds: int) -> Iterator[Callable[[], object]]:
    """A function that moves a bar by one round, on a terminal and with tqdm installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda: None
        return
    with tqdm(total=rounds, unit="round", leave=False, mininterval=0.5, disable=None) as bar:
        yield bar.update


def _headline(setting: Setting, options: argparse.Namespace) -> str:
    how = [setting.amp or "float32", *(name for name in ("channels_last", "compile") if getattr(setting, name))]
    where = f"{setting.device}, {setting.threads} threads" if setting.device == "cpu" else setting.device
    return (
        f"Batches of {setting.batch_size}, {setting.channels}x{setting.image_size}x{setting.image_size},"
        f" {', '.join(how)} on {where}; {options.warmups} warm-ups, {options.iterations} iterations"
    )


def _size(speed: Speed) -> str:
    memory = "not measurable here" if speed.peak_memory is None else f"{speed.peak_memory / 2**20:.1f} MiB"
    return f"{speed.parameters:,} parameters, {speed.macs / 1e9:.4g} GMAC an image, peak memory of a pass {memory}"


def _throughput(figures: dict[str, Any]) -> str:
    return "{mean:.1f} ± {deviation:.1f} images/s".format_map(figures["images_per_second"])


def _latency(figures: dict[str, Any]) -> str:
    text = "{mean:.3f} ± {deviation:.3f} ms a batch, median {median:.3f} (quartiles {low:.3f} to {high:.3f})"
    return text.format_map(figures["milliseconds"])


def _write(options: argparse.Namespace, setting: Setting, speeds: dict[str, Speed], compared: Spread | None) -> None:
    content = {
        "setting": asdict(setting) | {"warmups": options.warmups, "iterations": options.iterations},
        "cuda": {
            "allow_tf32": torch.backends.cudnn.allow_tf32,
            "benchmark": torch.backends.cudnn.benchmark,
            "cudnn": torch.backends.cudnn.version(),
        },
        "networks": {name: speed.figures() for name, speed in speeds.items()},
        "ratio": None if compared is None else asdict(compared),
        "environment": environment(),
    }
    with replacing(options.json) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
