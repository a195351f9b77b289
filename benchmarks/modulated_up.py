"""StyleGAN's modulated convolution with up=2, demodulated, at StyleGAN2's sizes: the op against the form that scales
what goes in and comes out of F.conv_transpose2d. Paired ratios.

    python -m benchmarks.modulated_up --results benchmarks/results

Both sides demodulate by a matrix product, and pass the same low-pass filter over the result. Training is the forward
and the gradients of x, weight and styles."""

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

CHANNELS = {16: 512, 32: 256, 64: 128}
TOLERANCE = 1e-4

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def op(x: Tensor, weight: Tensor, styles: Tensor, low_pass: Tensor) -> Tensor:
    return modulated_conv2d(x, weight, styles, padding=1, up=2, resample_filter=low_pass, flip_weight=False)


def not_fused(x: Tensor, weight: Tensor, styles: Tensor, low_pass: Tensor) -> Tensor:
    """As StyleGAN2-ADA's conv2d_resample does it where fused_modconv=False."""
    demodulation = (styles.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
    y = F.conv_transpose2d(x * styles[:, :, None, None], weight.transpose(0, 1), stride=2)
    taps = (low_pass.flip((0, 1)) * 4).expand(y.shape[1], 1, -1, -1)
    return F.conv2d(y, taps, padding=1, groups=y.shape[1]) * demodulation[:, :, None, None]


FORMS: dict[str, Callable[..., Tensor]] = {"op": op, "not fused": not_fused}


def forward(form: str, inputs: Inputs) -> Sequence[Tensor]:
    with torch.no_grad():
        return [FORMS[form](*inputs)]


def training(form: str, inputs: Inputs) -> Sequence[Tensor]:
    y = FORMS[form](*inputs)
    return torch.autograd.grad(y, inputs[:3], torch.ones_like(y))


MODES = {"forward": forward, "training": training}


def make_inputs(batch: int, channels: int, size: int, device: str = CPU) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, size, size, generator=generator)
    weight = torch.randn(channels, channels, 3, 3, generator=generator)
    styles = 1 + 0.5 * torch.randn(batch, channels, generator=generator)
    x, weight, styles = (tensor.to(torch_device(device)).requires_grad_() for tensor in (x, weight, styles))
    taps = torch.tensor([1.0, 3, 3, 1], device=x.device) / 8
    return x, weight, styles, torch.outer(taps, taps)


def measure(mode: str, batch: int, channels: int, size: int, rounds: int, device: str = CPU) -> Rounds:
    inputs = make_inputs(batch, channels, size, device)
    calls = {form: partial(MODES[mode], form, inputs) for form in FORMS}
    for result, expected in zip(calls["op"](), calls["not fused"](), strict=True):
        error = ((result - expected).abs().max() / expected.abs().max()).item()
        assert error <= TOLERANCE, f"{mode} {channels}@{size} b{batch}: off by {error:.1e} of the range"
    return alternate(calls, rounds, clock=clock_of(device))


def row(mode: str, batch: int, channels: int, size: int, rounds: Rounds) -> dict[str, object]:
    where = {"mode": mode, "channels": channels, "size": size, "batch": batch, "undisturbed": rounds.undisturbed}
    return {**where, "seconds": rounds.time("op").median, "ratio": vars(rounds.ratio("op", "not fused"))}


def table(rows: Sequence[dict], machine: dict[str, str | int]) -> str:
    lines = []
    for found in rows:
        name = f"{found['mode']}, {found['channels']}@{found['size']}, batch {found['batch']}"
        name += "" if found["undisturbed"] else ", disturbed"
        lines.append([name, f"{found['seconds'] * 1e3:.1f}", f"{Spread(**found['ratio']):.2f}"])
    return (
        "Time of `modulated_conv2d` with up=2, demodulated, relative to `F.conv_transpose2d` with styles and\n"
        "demodulation on what goes in and comes out; both with the same low-pass filter. float32, 3x3; medians of\n"
        "interleaved rounds and quartiles.\n\n"
        + markdown(["", "op, ms", "to F.conv_transpose2d"], lines)
        + made_by("python -m benchmarks.modulated_up", machine)
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=listed(int), default=list(CHANNELS))
    parser.add_argument("--batches", type=listed(int), default=[1, 8])
    parser.add_argument("--rounds", type=int, default=9)
    add_device(parser)
    parser.add_argument(
        "--results", type=Path, help="the folder in which to write modulated_up.json and modulated_up.md"
    )
    return parser


def main() -> None:
    restart_with(KEEP_MEMORY)
    options = parsed(parser())
    rows = []
    for mode, batch, size in product(MODES, options.batches, options.sizes):
        with tf32_as_in("float32"):
            rounds = measure(mode, batch, CHANNELS[size], size, options.rounds, options.device)
        rows.append(row(mode, batch, CHANNELS[size], size, rounds))
        print(f"{mode}, {CHANNELS[size]}@{size}, batch {batch}: {rounds.ratio('op', 'not fused'):.2f}", flush=True)
    write_results(options.results, "modulated_up", rows, table, options.device)


if __name__ == "__main__":
    main()
