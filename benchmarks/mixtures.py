"""A kernel for each sample, mixed of K parents or given: the op against the usual form, a convolution of N groups with
kernels made for it, and a static F.conv2d of the same shape. Paired ratios.

    python -m benchmarks.mixtures --results benchmarks/results

Mixtures have channel and filter attention per sample besides. Training is the forward and all gradients; that of a
static convolution has those of input and weight. At batch 1 the K parents have to be read for one sample: the time of
a sum over them stands beside it. Peak memory is that of K=4 in NCHW at batch 32, each call in a process of its own."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import geometric_mean

import torch
import torch.nn.functional as F
from torch import Tensor

from kerneldna_ops.functional import conv2d, conv2d_per_sample
from kerneldna_ops.measure.memory import highest_during, in_a_process
from kerneldna_ops.measure.tables import markdown
from kerneldna_ops.measure.time import Rounds, Spread, alternate

from .options import listed
from .peers.grouped import grouped_conv2d
from .process import KEEP_MEMORY, made_by, restart_with, write_results

SHAPES = {"64@56": (64, 56), "128@28": (128, 28), "256@14": (256, 14), "512@7": (512, 7)}
KERNELS = {"K=4": 4, "K=8": 8, "given": 0}
TOLERANCE = 1e-4
READ = "read"
MEBI = 2**20


@dataclass(frozen=True)
class Cell:
    kernels: str
    mode: str
    shape: str
    batch: int
    layout: str

    def __str__(self) -> str:
        return f"{self.kernels}, {self.mode}, {self.shape} b{self.batch} {self.layout}"


def make_inputs(cell: Cell) -> list[Tensor]:
    """x, weight, and for mixtures a, c and f."""
    generator = torch.Generator().manual_seed(0)
    (channels, size), kernels, batch = SHAPES[cell.shape], KERNELS[cell.kernels], cell.batch

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, weight = normal(batch, channels, size, size), normal(kernels or batch, channels, channels, 3, 3)
    if cell.layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    tensors = [x, weight / channels]
    if kernels:
        c, f = (1 + 0.5 * normal(batch, channels) for _ in range(2))
        tensors += [normal(batch, kernels).softmax(1), c, f]
    return [tensor.requires_grad_() for tensor in tensors]


def op(x: Tensor, weight: Tensor, *attentions: Tensor) -> Tensor:
    if not attentions:
        return conv2d_per_sample(x, weight, padding=1)
    a, c, f = attentions
    return conv2d(x, weight, kernel_attention=a, channel_attention=c, filter_attention=f, padding=1)


def grouped(x: Tensor, weight: Tensor, *attentions: Tensor) -> Tensor:
    """As everybody does it."""
    named = dict(zip(("kernel_attention", "channel_attention", "filter_attention"), attentions, strict=False))
    return grouped_conv2d(x, weight, **named, padding=1)


def static(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


FORMS: dict[str, Callable[..., Tensor]] = {"op": op, "grouped": grouped, "static": static}


def run(form: str, mode: str, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    if mode == "forward":
        with torch.no_grad():
            return [FORMS[form](*inputs)]
    y = FORMS[form](*inputs)
    return torch.autograd.grad(y, inputs, torch.ones_like(y))


def calls_of(cell: Cell) -> dict[str, Callable[[], Sequence[Tensor]]]:
    inputs = make_inputs(cell)
    one_weight = [inputs[0], inputs[1][0].detach().clone().requires_grad_()]
    return {form: partial(run, form, cell.mode, one_weight if form == "static" else inputs) for form in FORMS}


def peak(cell: Cell, form: str) -> int:
    """Bytes beyond the inputs."""
    return highest_during(calls_of(cell)[form])


def peaks(cell: Cell) -> dict[str, int | None]:
    return {form: in_a_process(peak, cell, form) for form in FORMS}


def measure(cell: Cell, rounds: int) -> Rounds:
    calls = calls_of(cell)
    for result, expected in zip(calls["op"](), calls["grouped"](), strict=True):
        error = ((result - expected).abs().max() / expected.abs().max()).item()
        assert error <= TOLERANCE, f"{cell}: off by {error:.1e} of the range"
    parents = make_inputs(cell)[1].detach()
    reading = {READ: parents.sum} if cell.batch == 1 and KERNELS[cell.kernels] and cell.mode == "forward" else {}
    return alternate({**calls, **reading}, rounds)


def row(cell: Cell, rounds: Rounds) -> dict[str, object]:
    ratios = {form: vars(rounds.ratio(form, "static")) for form in rounds.seconds if form != "static"}
    seconds = {form: rounds.time(form).median for form in rounds.seconds}
    return {**vars(cell), "undisturbed": rounds.undisturbed, "seconds": seconds, "to static": ratios}


def summary(rows: Sequence[dict]) -> Iterator[list[str]]:
    """Geometric mean and worst of the medians over the shapes, by what is convolved, mode, layout and batch."""
    groups: dict[tuple, list[dict]] = {}
    for found in rows:
        groups.setdefault(tuple(found[name] for name in ("kernels", "mode", "layout", "batch")), []).append(found)
    for (kernels, mode, layout, batch), members in groups.items():
        cells = []
        for form in ("op", "grouped"):
            medians = [found["to static"][form]["median"] for found in members]
            cells.append(f"{geometric_mean(medians):.2f} / {max(medians):.2f}")
        yield [f"{kernels}, {mode}, {layout}, batch {batch}", *cells]


def table(rows: Sequence[dict], machine: dict[str, str | int]) -> str:
    lines = []
    for found in rows:
        name = f"{found['kernels']}, {found['mode']}, {found['shape']}, batch {found['batch']}, {found['layout']}"
        name += "" if found["undisturbed"] else ", disturbed"
        ratios = found["to static"]
        cells = [f"{Spread(**ratios[form]):.2f}" if form in ratios else "" for form in ("op", "grouped", READ)]
        lines.append([name, f"{found['seconds']['op'] * 1e3:.2f}", *cells])
    return (
        "Time relative to a static `F.conv2d` of the same shape, 3x3, float32: a mixture of K kernels with channel\n"
        "and filter attention per sample, and kernels given for each sample. Medians of interleaved rounds and\n"
        "quartiles.\n\n"
        + markdown(["geometric mean / worst over the shapes", "op", "N groups"], list(summary(rows)))
        + "\n"
        + markdown(["", "op, ms", "op", "N groups", "reading K kernels"], lines)
        + memory(rows)
        + made_by("python -m benchmarks.mixtures", machine)
    )


def memory(rows: Sequence[dict]) -> str:
    """Of the rows that have it."""
    lines = [
        [f"{found['mode']}, {found['shape']}", *(f"{found['peaks'][form] / MEBI:.1f}" for form in FORMS)]
        for found in rows
        if "peaks" in found
    ]
    return "\nPeak memory of K=4, batch 32, NCHW, MiB.\n\n" + markdown(["", *FORMS], lines) if lines else ""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=listed(str), default=list(KERNELS))
    parser.add_argument("--shapes", type=listed(str), default=list(SHAPES))
    parser.add_argument("--batches", type=listed(int), default=[1, 8, 32])
    parser.add_argument("--modes", type=listed(str), default=["forward", "training"])
    parser.add_argument("--layouts", type=listed(str), default=["nchw", "channels_last"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, help="the folder in which to write mixtures.json and mixtures.md")
    return parser


def main() -> None:
    restart_with(KEEP_MEMORY)
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for kernels, mode, layout, batch, shape in product(
        options.kernels, options.modes, options.layouts, options.batches, options.shapes
    ):
        cell = Cell(kernels, mode, shape, batch, layout)
        rounds = measure(cell, options.rounds)
        rows.append(row(cell, rounds))
        if (kernels, layout, batch) == ("K=4", "nchw", 32):
            rows[-1]["peaks"] = peaks(cell)
        ratios = ", ".join(f"{form} {rounds.ratio(form, 'static'):.2f}" for form in ("op", "grouped"))
        print(f"{cell}: {ratios}{'' if rounds.undisturbed else ', DISTURBED'}", flush=True)
    write_results(options.results, "mixtures", rows, table)


if __name__ == "__main__":
    # Processes that measure memory find the functions by the name of a module that is no script.
    from benchmarks import mixtures

    mixtures.main()
