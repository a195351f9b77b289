"""What a network costs, training aside: weights, multiplications, time and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._latency import WARMUP_ROUNDS, Spread, alternate, ratio
from ..models.counting import count_macs, count_parameters
from .data import Images
from .memory import peak_training_memory
from .model import VARIANTS, build
from .train import make_optimizer, training_step

BATCH_SIZE = 64
ROUNDS = 25


@dataclass(frozen=True)
class Cost:
    """Of one variant. Times are ms for a batch, ratios are to `static`, memory is in MiB (None: not measurable)."""

    parameters: int
    macs: int
    forward_ms: Spread
    training_ms: Spread
    forward_ratio: Spread
    training_ratio: Spread
    peak_memory: float | None


def number_of_ticks(rounds: int) -> int:
    """How often `measure` calls `tick`."""
    return 2 * (WARMUP_ROUNDS + rounds) + len(VARIANTS)


def measure(examples: Images, rounds: int, tick: Callable[[], object]) -> dict[str, Cost]:
    """The costs of every variant, untrained: what the weights are makes no difference to them."""
    images, labels = examples.images[:BATCH_SIZE], examples.labels[:BATCH_SIZE]
    forward = alternate({name: _forward(build(name, 0), images) for name in VARIANTS}, rounds, tick)
    training = alternate({name: _training(build(name, 0), images, labels) for name in VARIANTS}, rounds, tick)
    costs = {}
    for name in VARIANTS:
        model = build(name, 0)
        costs[name] = Cost(
            count_parameters(model),
            count_macs(model, images[:1]),
            Spread.of(forward[name]),
            Spread.of(training[name]),
            ratio(forward[name], forward["static"]),
            ratio(training[name], training["static"]),
            peak_training_memory(name, len(images), torch.get_num_threads()),
        )
        tick()
    return costs


def _forward(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    model.eval()
    return torch.inference_mode()(lambda: model(images))


def _training(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = make_optimizer(model.train())
    return lambda: training_step(model, optimizer, images, labels)
