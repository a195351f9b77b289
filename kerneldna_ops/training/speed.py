"""How fast networks answer, and what they take up: the measurements behind `kerneldna throughput` and `latency`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from .. import _peak_memory
from .._latency import Spread, alternate, on_cpu, on_cuda
from ..commands.options import AMP
from ..models import count_macs, count_parameters, create_model
from .trial import try_out

Network = Mapping[str, Any]  # the arguments of create_model, num_classes among them


@dataclass(frozen=True)
class Setting:
    """`amp`: the dtype of torch.autocast by name, None for none. `threads`: those that torch computes with on a CPU."""

    batch_size: int = 128
    image_size: int = 224
    channels: int = 3
    device: str = "cpu"
    amp: str | None = None
    channels_last: bool = False
    compile: bool = False
    threads: int = 1

    def images(self, count: int) -> Tensor:
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        images = torch.randn(count, self.channels, self.image_size, self.image_size)
        return images.to(self.device, memory_format=memory_format)

    def build(self, network: Network) -> nn.Module:
        """In eval mode."""
        memory_format = torch.channels_last if self.channels_last else torch.preserve_format
        model = create_model(**network).eval().to(self.device)
        return model.to(memory_format=memory_format)  # type: ignore[call-overload, no-any-return]

    def call(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """The forward pass as it is measured."""
        if self.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        amp = None if self.amp is None else AMP[self.amp]

        @torch.inference_mode()
        def forward(images: Tensor) -> Tensor:
            with torch.autocast(torch.device(self.device).type, amp, enabled=amp is not None):
                return model(images)  # type: ignore[no-any-return]

        return forward


@dataclass(frozen=True)
class Speed:
    """Of one network: `milliseconds` of each timed batch; `macs` for one image; `peak_memory`: MiB that a forward pass
    adds at most to weights and images, None where it cannot be measured."""

    parameters: int
    macs: int
    peak_memory: float | None
    batch_size: int
    milliseconds: list[float]

    def figures(self) -> dict[str, Any]:
        """For a JSON file: mean and deviation of images a second and of milliseconds a batch, and the quartiles."""
        images_per_second = [1e3 * self.batch_size / sample for sample in self.milliseconds]
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "peak_memory_mib": self.peak_memory,
            "images_per_second": _mean_and_deviation(images_per_second),
            "milliseconds": _mean_and_deviation(self.milliseconds) | asdict(Spread.of(self.milliseconds)),
        }


def measure(
    networks: Mapping[str, Network], setting: Setting, warmups: int, iterations: int, on_round: Callable[[], object]
) -> dict[str, Speed]:
    """The speed of `networks`, which take turns; `on_round` is called after every round, those of warming up included.

    The protocol of the KernelDNA authors: eval mode, so many forward passes of one batch to warm up, then as many timed
    one by one, on CUDA by events. On a CPU the clock of the operating system takes their place.

    Raises:
        What create_model raises; ValueError: a network that does not take such images.
    """
    on_gpu = torch.device(setting.device).type == "cuda"
    torch.set_num_threads(setting.threads)
    images = setting.images(setting.batch_size)
    sizes, calls = {}, {}
    for name, network in networks.items():
        model, image = setting.build(network), setting.images(1)
        try_out(model, name, image, network["num_classes"])
        sizes[name] = count_parameters(model), count_macs(model, image)
        calls[name] = partial(setting.call(model), images)
    stopwatch = on_cuda if on_gpu else on_cpu
    samples = alternate(dict(calls), iterations, on_round, warmups, stopwatch)
    speeds = {}
    for name, network in networks.items():
        peak = _peak_on_gpu(calls[name]) if on_gpu else _peak_on_cpu(network, setting)
        speeds[name] = Speed(*sizes[name], peak, setting.batch_size, samples[name])
    return speeds


def _mean_and_deviation(samples: list[float]) -> dict[str, float]:
    return {"mean": fmean(samples), "deviation": stdev(samples)}


def _peak_on_gpu(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak_on_cpu(network: Network, setting: Setting) -> float | None:
    return _peak_memory.of_a_process(__name__, json.dumps([dict(network), asdict(setting)]))


def _print_peak(network: Network, setting: Setting) -> None:
    """Bytes that the forward pass of a batch adds at most; what a first pass leaves behind is not in it."""
    torch.set_num_threads(setting.threads)
    call = setting.call(setting.build(network))
    images = setting.images(setting.batch_size)
    call(setting.images(1))
    print(_peak_memory.highest_during(lambda: call(images)))


if __name__ == "__main__":
    network, setting = json.loads(sys.argv[1])
    _print_peak(network, Setting(**setting))
