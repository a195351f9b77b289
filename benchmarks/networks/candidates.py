"""Which networks are compared, and that all answer rightly before they are timed."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.optim.swa_utils import update_bn

import kerneldna_ops
from benchmarks.cases import DTYPES, LAYOUTS, tf32_as_in
from benchmarks.devices import CPU, torch_device
from benchmarks.peers import set_temperature
from benchmarks.peers.cond_conv import CondConv2d
from benchmarks.peers.grouped import GroupedCondConv2d, GroupedODConv2d
from kerneldna_ops.measure import networks as measure
from kerneldna_ops.models import create_model
from kerneldna_ops.nn import Adapter, ODConv2d

CLASSES = 1000
STATIC, FOLDED, KERNELDNA = "static", "static folded", "kerneldna"
DYNAMIC, GROUPED = "dynamic", "dynamic grouped"
MODES = {"forward": (STATIC, FOLDED, KERNELDNA, DYNAMIC, GROUPED), "training": (STATIC, KERNELDNA, DYNAMIC, GROUPED)}
# Whose answer a candidate must give, with the slow reference backend and without fusion.
TRUTHS = {FOLDED: STATIC, KERNELDNA: KERNELDNA, DYNAMIC: DYNAMIC, GROUPED: DYNAMIC}
# Of the largest score and of the length of the gradient, beyond twice what plain PyTorch's rounding makes of them: a
# gate against timing a wrong answer.
TOLERANCE = {"forward": 1e-3, "training": 1e-2}

# torchvision built with CUDA cannot load its operators beside CPU-only torch, and without these is not even imported.
if torch.version.cuda is None and not hasattr(torch.ops.torchvision, "nms"):
    _OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def odconv_resnet18(layer: type[ODConv2d], kernels: int) -> nn.Module:
    """ResNet-18 whose 3x3 convolutions are ODConv's (Li et al., ICLR 2022), at the temperature at which they start: at
    the last one attentions of random weights make so much of rounding that no answer could be checked."""
    network = create_model("torchvision/resnet18")
    for name, conv in list(network.named_modules()):
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            shape = conv.in_channels, conv.out_channels, conv.kernel_size
            network.set_submodule(name, layer(*shape, conv.stride, conv.padding, kernel_num=kernels))
    set_temperature(network, 0)
    return network


def condconv_mobilenet_v2(layer: type[CondConv2d], kernels: int) -> nn.Module:
    """MobileNetV2 whose inverted residual blocks are of CondConv's convolutions (Yang et al., NeurIPS 2019)."""
    network = create_model("torchvision/mobilenet_v2", dropout=0.0)
    for name, conv in list(network.named_modules()):
        if isinstance(conv, nn.Conv2d) and ".conv." in name:
            shape = conv.in_channels, conv.out_channels, conv.kernel_size
            geometry = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
            network.set_submodule(name, layer(*shape, **geometry, num_experts=kernels))
    return network


def twins(name: str, of_torchvision: str | None = None, **arguments: object) -> dict[str, Callable[[], nn.Module]]:
    """A published network and the static one of torchvision that it is made from. `arguments` are the latter's: what is
    random in training, dropout say, is left out, and costs no time worth measuring."""
    static = partial(create_model, f"torchvision/{of_torchvision or name}", **arguments)
    return {STATIC: static, KERNELDNA: partial(create_model, f"kerneldna_{name}")}


# Name -> candidate -> what makes it; [N, 3, H, W] -> [N, 1000].
PUBLISHED = {
    "resnet18": twins("resnet18"),
    "resnet50": twins("resnet50"),
    "mobilenet_v2": twins("mobilenet_v2", dropout=0.0),
    "mobilenet_v2_050": twins("mobilenet_v2_050", "mobilenet_v2", width_mult=0.5, dropout=0.0),
    "convnext_tiny": twins("convnext_tiny", stochastic_depth_prob=0.0),
}
OF_OTHERS = {
    "odconv_resnet18": {
        STATIC: partial(create_model, "torchvision/resnet18"),
        DYNAMIC: partial(odconv_resnet18, ODConv2d, 1),
        GROUPED: partial(odconv_resnet18, GroupedODConv2d, 1),
    },
    "odconv4_resnet18": {
        STATIC: partial(create_model, "torchvision/resnet18"),
        DYNAMIC: partial(odconv_resnet18, ODConv2d, 4),
        GROUPED: partial(odconv_resnet18, GroupedODConv2d, 4),
    },
    "condconv4_mobilenet_v2": {
        STATIC: partial(create_model, "torchvision/mobilenet_v2", dropout=0.0),
        DYNAMIC: partial(condconv_mobilenet_v2, CondConv2d, 4),
        GROUPED: partial(condconv_mobilenet_v2, GroupedCondConv2d, 4),
    },
}
NETWORKS = PUBLISHED | OF_OTHERS


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


def candidates(name: str, layout: str, dtype: str = "float32", device: str = CPU) -> dict[str, nn.Module]:
    """In eval mode, weights and all in the dtype. A network without BatchNorm has nothing to fold."""
    found = {which: build(make, layout) for which, make in NETWORKS[name].items()}
    if KERNELDNA in found and any(isinstance(module, nn.BatchNorm2d) for module in found[STATIC].modules()):
        found[FOLDED] = fuse(found[STATIC])
    return {which: network.to(torch_device(device), DTYPES[dtype]) for which, network in found.items()}


def training(network: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return measure.gradients(network, x, torch.arange(len(x), device=x.device) % CLASSES)


RUN: dict[str, Callable[[nn.Module, Tensor], object]] = {"forward": measure.forward, "training": training}


def check(networks: dict[str, nn.Module], x: Tensor, dtype: str = "float32") -> None:
    """Raises AssertionError where a candidate does not answer as it must. Leaves the networks in eval mode."""
    for mode, wanted in MODES.items():
        for network in networks.values():
            network.train(mode == "training")
        for name in (name for name in wanted if name in networks and name in TRUTHS):
            source = networks[TRUTHS[name]]
            plain, exact = _by_reference(mode, source, x), torch.float64 if dtype == "float32" else torch.float32
            with tf32_as_in("float32"):
                truth = _by_reference(mode, deepcopy(source).to(exact), x.to(exact))
            _near(mode, name, _answer(mode, networks[name], x), truth, plain)
    for network in networks.values():
        network.eval()


def _by_reference(mode: str, network: nn.Module, x: Tensor) -> Tensor:
    with kerneldna_ops.use_backend("reference"):
        # In forward gradients are on, so that nothing is folded or fused.
        return network(x).detach() if mode == "forward" else _answer(mode, network, x)


def _answer(mode: str, network: nn.Module, x: Tensor) -> Tensor:
    return measure.forward(network, x) if mode == "forward" else _flat(training(network, x))


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def _near(mode: str, name: str, actual: Tensor, truth: Tensor, plain: Tensor) -> None:
    size = torch.Tensor.norm if mode == "training" else torch.Tensor.max

    def off(answer: Tensor) -> float:
        return (size((answer - truth).abs()) / size(truth.abs())).item()

    error, allowed = off(actual), TOLERANCE[mode] + 2 * off(plain)
    assert error <= allowed, f"{name}, {mode}: off by {error:.1e}, at most {allowed:.0e} was expected"
