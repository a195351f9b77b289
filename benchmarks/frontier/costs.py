"""What a variant costs, training aside: weights, multiplications, and time beside the static network."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.devices import clock_of
from benchmarks.paired import Spread, alternate
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
    take = partial(alternate, rounds=rounds, sample_seconds=SAMPLE_SECONDS, clock=clock_of(device))
    forward = take({name: partial(_forward, model.eval(), images) for name, model in models.items()})
    steps = {name: partial(_training, model.train(), images, labels) for name, model in models.items()}
    training = take(steps)
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
