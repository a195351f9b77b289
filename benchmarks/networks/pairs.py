"""Which networks are compared, and that both answer rightly before they are timed."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import kerneldna_ops
from benchmarks.cases import DTYPES, LAYOUTS, tf32_as_in
from benchmarks.devices import CPU, torch_device
from kerneldna_ops.models import create_model
from kerneldna_ops.nn import Adapter

from . import static

STATIC, FOLDED, KERNELDNA = "static", "static folded", "kerneldna"
MODES = {"forward": (STATIC, FOLDED, KERNELDNA), "training": (STATIC, KERNELDNA)}
# Of the largest score and of the length of the gradient, beyond twice what plain PyTorch's rounding makes of them: a
# gate against timing a wrong answer.
TOLERANCE = {"forward": 1e-3, "training": 1e-2}


@dataclass(frozen=True)
class Pair:
    """A static network and the KernelDNA network made from it; [N, 3, H, W] -> [N, 1000]."""

    static: Callable[[], nn.Module]
    kerneldna: Callable[[], nn.Module]


PAIRS = {
    "resnet18": Pair(static.resnet18, partial(create_model, "kerneldna_resnet18")),
    "resnet50": Pair(static.resnet50, partial(create_model, "kerneldna_resnet50")),
    "mobilenet_v2": Pair(static.mobilenet_v2, partial(create_model, "kerneldna_mobilenet_v2")),
    "mobilenet_v2_050": Pair(
        partial(static.mobilenet_v2, 0.5), partial(create_model, "kerneldna_mobilenet_v2", width_mult=0.5)
    ),
    "convnext_tiny": Pair(static.convnext_tiny, partial(create_model, "kerneldna_convnext_tiny")),
}


def images(batch: int, size: int, layout: str, dtype: str = "float32", device: str = CPU) -> Tensor:
    """[batch, 3, size, size], the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, size, size, generator=generator)
    return x.to(torch_device(device), DTYPES[dtype], memory_format=LAYOUTS[layout])


def build(make: Callable[[], nn.Module], layout: str) -> nn.Module:
    """A network with adapters and normalisations that do something, so that one left out shows in the answer."""
    torch.manual_seed(0)
    network = make().to(memory_format=LAYOUTS[layout])
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
            if isinstance(module, Adapter):
                for attention in (module.filter_attention, module.spatial_attention):
                    if attention is not None:
                        attention.normal_(0, 0.1)
        update_bn([images(8, 64, layout)], network)
    return network.eval()


def candidates(pair: Pair, layout: str, dtype: str = "float32", device: str = CPU) -> dict[str, nn.Module]:
    """In eval mode, weights and all in the dtype. A network without BatchNorm has nothing to fold."""
    found = {STATIC: build(pair.static, layout), KERNELDNA: build(pair.kerneldna, layout)}
    if any(isinstance(module, nn.BatchNorm2d) for module in found[STATIC].modules()):
        found[FOLDED] = static.folded(found[STATIC])
    return {name: network.to(torch_device(device), DTYPES[dtype]) for name, network in found.items()}


def forward(network: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(x)


def training(network: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The gradients of all parameters."""
    labels = torch.arange(len(x), device=x.device) % static.CLASSES
    return torch.autograd.grad(F.cross_entropy(network(x), labels), list(network.parameters()))


RUN: dict[str, Callable[[nn.Module, Tensor], object]] = {"forward": forward, "training": training}


def check(networks: dict[str, nn.Module], x: Tensor, dtype: str = "float32") -> None:
    """Raises AssertionError where the KernelDNA network does not answer as it does without fusion and with the slow
    reference backend, or the folded static network not as the static one. Leaves the networks in eval mode."""
    ours = networks[KERNELDNA].eval()
    exact = ours if dtype == "float32" else deepcopy(ours).float()
    for mode in MODES:
        plain = _by_reference(mode, ours, x)
        with tf32_as_in("float32"):
            truth = plain if exact is ours else _by_reference(mode, exact, x.float())
        _near(mode, KERNELDNA, _answer(mode, ours, x), truth, plain)
        ours.train()
        exact.train()
    ours.eval()
    if FOLDED in networks:
        static = forward(networks[STATIC].eval(), x)
        with tf32_as_in("float32"):
            truth = static if exact is ours else forward(deepcopy(networks[STATIC]).float(), x.float())
        _near("forward", FOLDED, forward(networks[FOLDED], x), truth, static)


def _by_reference(mode: str, network: nn.Module, x: Tensor) -> Tensor:
    with kerneldna_ops.use_backend("reference"):
        # In forward gradients are on, so that nothing is folded or fused.
        return network(x).detach() if mode == "forward" else _answer(mode, network, x)


def _answer(mode: str, network: nn.Module, x: Tensor) -> Tensor:
    return forward(network, x) if mode == "forward" else _flat(training(network, x))


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def _near(mode: str, name: str, actual: Tensor, truth: Tensor, plain: Tensor) -> None:
    size = torch.Tensor.norm if mode == "training" else torch.Tensor.max

    def off(answer: Tensor) -> float:
        return (size((answer - truth).abs()) / size(truth.abs())).item()

    error, allowed = off(actual), TOLERANCE[mode] + 2 * off(plain)
    assert error <= allowed, f"{name}, {mode}: off by {error:.1e}, at most {allowed:.0e} was expected"
