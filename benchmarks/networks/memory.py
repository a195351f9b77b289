"""Peak memory of one pass of a network on the CPU: a process per network, as in benchmarks/memory.py.

The weights exist before. Folded weights that a network keeps from one pass to the next count, and so does scratch."""

import subprocess
import sys

import torch
from torch import Tensor, nn

from benchmarks.cases import DTYPES
from benchmarks.memory import warm_up_torch
from benchmarks.process import RETURN_MEMORY, environment
from kerneldna_ops._peak_memory import highest_during, resident
from kerneldna_ops.nn import ChildConv2d

from .pairs import KERNELDNA, PAIRS, RUN, STATIC, build, images

SMALL = 2, 64  # batch and size of the pass that starts what is started once
KEPT_FOR_THE_GRADIENT = (nn.Conv2d, ChildConv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm)


def peak(name: str, candidate: str, layout: str, mode: str, batch: int, size: int) -> int:
    """Bytes, in this process, which must have done nothing else yet."""
    pair = PAIRS[name]
    network = build(pair.static if candidate == STATIC else pair.kerneldna, layout).train(mode == "training")
    small, x = images(*SMALL, layout), images(batch, size, layout)
    run = RUN[mode]
    warm_up_torch()
    before = resident("RssAnon")
    run(network, small)
    scratch = max(0, resident("RssAnon") - before)
    return scratch + highest_during(lambda: run(network, x))


def weights(name: str, candidate: str, dtype: str = "float32") -> int:
    """Bytes of parameters and buffers."""
    pair = PAIRS[name]
    with torch.device("meta"):
        network = (pair.static() if candidate == STATIC else pair.kerneldna()).to(DTYPES[dtype])
    return sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])


def peak_in_its_own_process(name: str, candidate: str, layout: str, mode: str, batch: int, size: int) -> int:
    arguments = [name, candidate, layout, mode, str(batch), str(size), str(torch.get_num_threads())]
    child = [sys.executable, "-m", __name__, *arguments]
    answer = subprocess.run(child, env=environment(RETURN_MEMORY), capture_output=True, text=True)
    if answer.returncode != 0:
        raise SystemExit(f"{candidate} {name}, {layout}, {mode}: {answer.stderr.strip()}")
    return int(answer.stdout)


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
    pair = PAIRS[name]
    found = {
        which: activations(build(make, "nchw"), x)
        for which, make in ((STATIC, pair.static), (KERNELDNA, pair.kerneldna))
    }
    return (found[KERNELDNA] - found[STATIC]) * batch // 2 * DTYPES[dtype].itemsize // torch.float32.itemsize


if __name__ == "__main__":
    *names, batch, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(peak(*names, int(batch), int(size)))
