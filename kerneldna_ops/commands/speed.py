"""How fast networks answer, and what they take up: the measurements behind `kerneldna throughput` and `latency`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from ..measure.memory import highest_during, in_a_process, peak_on_gpu
from ..measure.networks import count_macs, count_parameters
from ..measure.time import Rounds, Sample, Spread, Timed, alternate, device_sample, wall_sample
from ..models import create_model
from ..models.trial import try_out
from .options import AMP

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
    """Of one network: `seconds` of each timed batch; `macs` for one image; `peak_memory`: bytes that a forward pass
    adds at most to weights and images, None where it cannot be measured."""

    parameters: int
    macs: int
    peak_memory: int | None
    batch_size: int
    seconds: list[float]

    def figures(self) -> dict[str, Any]:
        """For a JSON file: mean and deviation of images a second and of milliseconds a batch, and the quartiles."""
        milliseconds = [1e3 * sample for sample in self.seconds]
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "peak_memory_mib": None if self.peak_memory is None else self.peak_memory / 2**20,
            "images_per_second": _mean_and_deviation([self.batch_size / sample for sample in self.seconds]),
            "milliseconds": _mean_and_deviation(milliseconds) | asdict(Spread.of(milliseconds)),
        }


def measure(
    networks: Mapping[str, Network], setting: Setting, warmups: int, iterations: int, on_round: Callable[[], object]
) -> tuple[dict[str, Speed], Rounds]:
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
    clock = _each_on_cuda if on_gpu else _each_on_cpu
    rounds = alternate(calls, iterations, clock=clock, warmups=warmups, on_round=on_round)
    speeds = {}
    for name, network in networks.items():
        peak = peak_on_gpu(calls[name]) if on_gpu else in_a_process(peak_on_cpu, network, setting)
        speeds[name] = Speed(*sizes[name], peak, setting.batch_size, rounds.seconds[name])
    return speeds, rounds


# Every call is a sample that counts, whatever disturbed it.
def _each_on_cpu(call: Timed, _: float) -> Callable[[], Sample]:
    return lambda: (wall_sample(call)[0], True)


def _each_on_cuda(call: Timed, _: float) -> Callable[[], Sample]:
    return lambda: (device_sample(call, delay=0)[0], True)


def _mean_and_deviation(samples: list[float]) -> dict[str, float]:
    return {"mean": fmean(samples), "deviation": stdev(samples)}


def peak_on_cpu(network: Network, setting: Setting) -> int:
    """Bytes that the forward pass of a batch adds at most in this process, which should have done nothing else; what a
    first pass leaves behind is not in it."""
    call = setting.call(setting.build(network))
    images = setting.images(setting.batch_size)
    call(setting.images(1))
    return highest_during(lambda: call(images))
