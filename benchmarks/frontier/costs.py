"""What a variant costs, training aside: weights, multiplications, and time beside the static network."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.paired import Rounds, Spread, alternate
from kerneldna_ops.models.counting import count_macs, count_parameters

from .networks import build
from .settings import BATCH_SIZE
from .variants import STATIC, VARIANTS

ROUNDS = 15
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """`macs` are of one image, seconds of a batch; ratios are to the static network, round by round."""

    parameters: int
    macs: int
    forward_seconds: Spread
    forward_ratio: Spread
    training_seconds: Spread
    training_ratio: Spread
    undisturbed: bool


def costs(network: str, side: int, classes: int, device: str, rounds: int = ROUNDS) -> dict[str, Cost]:
    """Of every variant, untrained: what the weights are makes no difference."""
    torch.manual_seed(0)
    images = torch.randn(BATCH_SIZE, 1, side, side, device=device)
    labels = torch.arange(BATCH_SIZE, device=device) % classes
    models = {name: build(network, name, 0, classes, 1).to(device) for name in VARIANTS}
    macs = {name: count_macs(model, images[:1]) for name, model in models.items()}
    forward = _take({name: partial(_forward, model.eval(), images) for name, model in models.items()}, device, rounds)
    steps = {name: partial(_training, model.train(), images, labels) for name, model in models.items()}
    training = _take(steps, device, rounds)
    return {
        name: Cost(
            count_parameters(model),
            macs[name],
            forward.time(name),
            forward.ratio(name, STATIC),
            training.time(name),
            training.ratio(name, STATIC),
            forward.undisturbed and training.undisturbed,
        )
        for name, model in models.items()
    }


@torch.inference_mode()
def _forward(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def _training(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The gradients of all parameters."""
    return torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))


def _take(calls: Mapping[str, Callable[[], object]], device: str, rounds: int) -> Rounds:
    return alternate(calls, rounds, SAMPLE_SECONDS) if device == "cpu" else _alternate_on_gpu(calls, rounds)


def _alternate_on_gpu(calls: Mapping[str, Callable[[], object]], rounds: int) -> Rounds:
    """Device time between two events around SAMPLE_SECONDS of calls, the candidates in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    counts = {}
    for name, call in calls.items():
        call()  # compiles, and lets cuDNN choose
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        counts[name] = max(1, round(SAMPLE_SECONDS / (time.perf_counter() - start)))
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(counts[name]):
                calls[name]()
            end.record()
            end.synchronize()
            seconds[name].append(start.elapsed_time(end) / 1e3 / counts[name])
    return Rounds(seconds, undisturbed=True)
