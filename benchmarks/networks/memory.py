"""Peak memory of one pass of a network, on the CPU in a process for each.

The weights exist before. Folded weights that a network keeps from one pass to the next count, and so does scratch."""

import torch
from torch import Tensor, nn

from benchmarks.cases import DTYPES
from benchmarks.measure import peak_with_scratch, warm_up_torch
from kerneldna_ops.nn import ChildConv2d

from .candidates import KERNELDNA, NETWORKS, RUN, STATIC, build, images

SMALL = 2, 64  # batch and size of the pass that starts what is started once
KEPT_FOR_THE_GRADIENT = (nn.Conv2d, ChildConv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm)


def peak(name: str, candidate: str, layout: str, mode: str, batch: int, size: int) -> int:
    """Bytes, for kerneldna_ops.measure.memory.in_a_process."""
    network = build(NETWORKS[name][candidate], layout).train(mode == "training")
    small, x = images(*SMALL, layout), images(batch, size, layout)
    warm_up_torch()
    return peak_with_scratch(lambda: RUN[mode](network, small), lambda: RUN[mode](network, x))


def weights(name: str, candidate: str, dtype: str = "float32") -> int:
    """Bytes of parameters and buffers."""
    with torch.device("meta"):
        network = NETWORKS[name][candidate]().to(DTYPES[dtype])
    return sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])


def activations(network: nn.Module, x: Tensor) -> int:
    """Bytes that the convolutions, linear layers and norms put out in a training pass over x: what is kept for the
    gradient where each activation function works in place."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.nbytes

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, KEPT_FOR_THE_GRADIENT)]
    network.train()(x)
    for hook in hooks:
        hook.remove()
    return total


def activations_of_extra_layers(name: str, batch: int, size: int, dtype: str = "float32") -> int:
    """Bytes that the KernelDNA network has to keep beyond what the static one keeps; counted at batch 2."""
    x = images(2, size, "nchw")
    static, ours = (activations(build(NETWORKS[name][which], "nchw"), x) for which in (STATIC, KERNELDNA))
    return (ours - static) * batch // 2 * DTYPES[dtype].itemsize // torch.float32.itemsize
