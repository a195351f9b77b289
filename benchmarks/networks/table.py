"""The figures as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kerneldna_ops.measure import tables
from kerneldna_ops.measure.time import Spread

from .candidates import DYNAMIC, FOLDED, GROUPED, KERNELDNA, STATIC

# Of the time for each multiplication.
TARGETS = {"forward": 1.02, "training": 1.05}
MEBI = 2**20
SIZES = ("static", "kerneldna", "static, weights", "kerneldna, weights", "kerneldna in all", "allowed")


@dataclass(frozen=True)
class Time:
    """Of a batch. `per_mac` is the ratio of times to the static network divided by the ratio of multiplications."""

    network: str
    layout: str
    mode: str
    candidate: str
    parameters: int
    macs: int
    seconds: Spread
    ratio: Spread
    per_mac: Spread
    undisturbed: bool


@dataclass(frozen=True)
class Memory:
    """Peaks in bytes, beyond the weights, and the weights; `allowed` is what the static network takes in all and the
    activations of the layers that it does not have."""

    network: str
    layout: str
    mode: str
    static: int
    kerneldna: int
    static_weights: int
    kerneldna_weights: int
    allowed: int


def markdown(times: Sequence[Time], memory: Sequence[Memory], machine: Mapping[str, object], setting: str) -> str:
    parts = [
        "# The published networks beside their static twins\n",
        f"{setting}, {_where(machine)}, torch {machine['torch']},"
        f" commit {machine['commit']}. Made by `python -m benchmarks.networks`.\n",
        "Times are medians [quartiles]; ratios are to the static network, formed within rounds in which the networks"
        " take turns. Per MAC: divided by the ratio of multiplications. Forward is in eval mode with inference_mode;"
        " training is the forward pass in training mode and the gradients of all parameters. "
        f"`{FOLDED}`: the static network with every BatchNorm folded into its convolution. `{DYNAMIC}`: every 3x3"
        " convolution ODConv's, or every one of a block CondConv's, with so many kernels, by the layers of"
        f" kerneldna_ops.nn; `{GROUPED}`: N kernels made for a convolution of N groups.\n",
        tables.markdown(
            ["network", "parameters", "GMAC", "layout", "pass", "ms", "to static", "**per MAC**", "target"],
            [_time(time) for time in times],
        ),
        "\n## Peak memory\n",
        "MiB, on the CPU in a process of its own. Allowed: the static network's with its weights, and in training the"
        " activations of the layers that it does not have.\n",
        tables.markdown(["network", "layout", "pass", *SIZES, ""], [_memory(m) for m in memory]),
    ]
    return "\n".join(parts)


def _where(machine: Mapping[str, object]) -> object:
    return machine.get("gpu") or f"{machine['threads']} threads of {machine['cpu']}"


def _milliseconds(time: Time) -> str:
    seconds = time.seconds.median
    return f"{1e3 * seconds:.{1 if seconds >= 0.01 else 3}f}" + ("" if time.undisturbed else " (disturbed)")


def _time(time: Time) -> list[str]:
    target = TARGETS[time.mode] if time.candidate == KERNELDNA else None
    met = "met" if target is not None and time.per_mac.median <= target else "**missed**"
    return [
        f"{time.network}, {time.candidate}",
        f"{time.parameters:,}",
        f"{time.macs / 1e9:.4g}",
        time.layout,
        time.mode,
        _milliseconds(time),
        "1" if time.candidate == STATIC else f"{time.ratio:.3f}",
        "1" if time.candidate == STATIC else f"{time.per_mac:.3f}",
        "" if target is None else f"{target}: {met}",
    ]


def _memory(memory: Memory) -> list[str]:
    weights = memory.static_weights, memory.kerneldna_weights
    taken = memory.kerneldna + memory.kerneldna_weights
    figures = [f"{size / MEBI:.1f}" for size in (memory.static, memory.kerneldna, *weights, taken, memory.allowed)]
    met = "met" if taken <= memory.allowed else "**missed**"
    return [memory.network, memory.layout, memory.mode, *figures, met]
