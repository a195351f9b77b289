"""StyleGAN's modulated convolution, 512 channels at 4x4 to 64x64, demodulated: the op against the two published forms
and a static F.conv2d, all of the same weights. Paired ratios.

    python -m benchmarks.modulated --results benchmarks/results

Training is the forward and the gradients of x, weight and styles; path length, the gradients of StyleGAN2's path length
penalty, which is itself made of gradients."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kerneldna_ops.functional import modulated_conv2d
from kerneldna_ops.measure.tables import markdown
from kerneldna_ops.measure.time import Rounds, Spread, alternate

from .cases import tf32_as_in
from .devices import CPU, clock_of, torch_device
from .options import add_device, listed, parsed
from .process import KEEP_MEMORY, made_by, restart_with, write_results

CHANNELS = 512
TOLERANCE = 1e-4

Inputs = tuple[Tensor, Tensor, Tensor]


def op(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    return modulated_conv2d(x, weight, styles, padding=1)


def modulated_weights(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """[N, C_out, C_in, kh, kw], and the demodulation [N, C_out]; both published forms make the first for the second."""
    weights = weight[None] * styles[:, None, :, None, None]
    return weights, (weights.square().sum((2, 3, 4)) + 1e-8).rsqrt()


def fused(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """StyleGAN2's fused_modconv=True: a convolution of N groups."""
    weights, demodulation = modulated_weights(weight, styles)
    weights = (weights * demodulation[:, :, None, None, None]).flatten(0, 1)
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), weights, padding=1, groups=len(x))
    return y.view(len(x), -1, *y.shape[2:])


def not_fused(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """fused_modconv=False, the default in training: x and y are scaled instead of the weight."""
    _, demodulation = modulated_weights(weight, styles)
    return F.conv2d(x * styles[:, :, None, None], weight, padding=1) * demodulation[:, :, None, None]


def static(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "op": op,
    "fused": fused,
    "not fused": not_fused,
    "static": static,
}


def forward(form: str, inputs: Inputs) -> Sequence[Tensor]:
    with torch.no_grad():
        return [FORMS[form](*inputs)]


def training(form: str, inputs: Inputs) -> Sequence[Tensor]:
    y = FORMS[form](*inputs)
    wanted = inputs[:2] if form == "static" else inputs
    return torch.autograd.grad(y, wanted, torch.ones_like(y))


def path_length(form: str, inputs: Inputs) -> Sequence[Tensor]:
    y = FORMS[form](*inputs)
    (gradient,) = torch.autograd.grad(y.sum() / y.shape[2], inputs[2], create_graph=True)
    return torch.autograd.grad(gradient.square().sum(1).sqrt().mean(), inputs)


MODES = {"forward": forward, "training": training, "path length": path_length}


def make_inputs(batch: int, size: int, device: str = CPU) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, CHANNELS, size, size, generator=generator)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=generator)
    styles = 1 + 0.5 * torch.randn(batch, CHANNELS, generator=generator)
    x, weight, styles = (tensor.to(torch_device(device)).requires_grad_() for tensor in (x, weight, styles))
    return x, weight, styles


def forms_of(mode: str) -> list[str]:
    """A static convolution has no styles, whose gradient the path length is."""
    return [form for form in FORMS if mode != "path length" or form != "static"]


def measure(mode: str, batch: int, size: int, rounds: int, device: str = CPU) -> Rounds:
    inputs = make_inputs(batch, size, device)
    calls = {form: partial(MODES[mode], form, inputs) for form in forms_of(mode)}
    truth = calls["fused"]()
    for form in ("op", "not fused"):
        for result, expected in zip(calls[form](), truth, strict=True):
            error = ((result - expected).abs().max() / expected.abs().max()).item()
            assert error <= TOLERANCE, f"{form}, {mode} {size} b{batch}: off by {error:.1e} of the range"
    return alternate(calls, rounds, clock=clock_of(device))


def row(mode: str, batch: int, size: int, rounds: Rounds) -> dict[str, object]:
    others = [form for form in rounds.seconds if form != "op"]
    ratios = {f"op to {form}": vars(rounds.ratio("op", form)) for form in others}
    seconds = {form: rounds.time(form).median for form in rounds.seconds}
    where = {"mode": mode, "channels": CHANNELS, "size": size, "batch": batch}
    return {**where, "undisturbed": rounds.undisturbed, "seconds": seconds, "ratios": ratios}


def table(rows: Sequence[dict], machine: dict[str, str | int]) -> str:
    lines = []
    for found in rows:
        ratios = [found["ratios"].get(f"op to {form}") for form in ("fused", "not fused", "static")]
        name = f"{found['mode']}, {CHANNELS}@{found['size']}, batch {found['batch']}"
        name += "" if found["undisturbed"] else ", disturbed"
        cells = ("" if ratio is None else f"{Spread(**ratio):.2f}" for ratio in ratios)
        lines.append([name, f"{found['seconds']['op'] * 1e3:.1f}", *cells])
    return (
        "Time of `modulated_conv2d` relative to StyleGAN's two forms and to a static convolution: medians of\n"
        "interleaved rounds and their quartiles; below 1 the op is the faster. float32, 3x3, demodulated.\n\n"
        + markdown(["", "op, ms", "to fused (N groups)", "to not fused", "to static"], lines)
        + made_by("python -m benchmarks.modulated", machine)
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=listed(int), default=[4, 8, 16, 32, 64])
    parser.add_argument("--batches", type=listed(int), default=[1, 4])
    parser.add_argument("--rounds", type=int, default=9)
    add_device(parser)
    parser.add_argument("--results", type=Path, help="the folder in which to write modulated.json and modulated.md")
    return parser


def main() -> None:
    restart_with(KEEP_MEMORY)
    options = parsed(parser())

    rows = []
    for mode, batch, size in product(MODES, options.batches, options.sizes):
        with tf32_as_in("float32"):
            rounds = measure(mode, batch, size, options.rounds, options.device)
        rows.append(row(mode, batch, size, rounds))
        ratios = ", ".join(f"{name} {ratio['median']:.2f}" for name, ratio in rows[-1]["ratios"].items())
        print(f"{mode}, {size}, batch {batch}: {ratios}{'' if rounds.undisturbed else ', DISTURBED'}", flush=True)
    write_results(options.results, "modulated", rows, table, options.device)


if __name__ == "__main__":
    main()
