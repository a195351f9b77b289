"""Time and peak memory of KernelDNA ResNet-18, ResNet-50, MobileNetV2 and ConvNeXt-Tiny beside their static twins.

    python -m benchmarks.networks --json benchmarks/results/networks.json

Targets: time per multiplication at most 1.02 times the static network's forward, 1.05 times in training; memory at most
the static network's and the activations of the extra layers. The Markdown table is written beside the JSON file."""

import argparse
import json
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path

import torch

from benchmarks.options import listed, one_of
from benchmarks.paired import Spread, alternate
from benchmarks.process import KEEP_MEMORY, description, restart_with
from kerneldna_ops.models.counting import count_macs, count_parameters

from .memory import activations_of_extra_layers, peak_in_its_own_process, weights
from .pairs import KERNELDNA, LAYOUTS, MODES, PAIRS, RUN, STATIC, candidates, check, images
from .table import TARGETS, Memory, Time, markdown


def times(name: str, layout: str, batch: int, size: int, rounds: int) -> list[Time]:
    networks = candidates(PAIRS[name], layout)
    x = images(batch, size, layout)
    check(networks, x)
    macs = {which: count_macs(network, images(1, size, layout)) for which, network in networks.items()}
    rows = []
    for mode, wanted in MODES.items():
        chosen = {which: networks[which].train(mode == "training") for which in wanted if which in networks}
        taken = alternate(
            {which: partial(RUN[mode], network, x) for which, network in chosen.items()}, rounds, sample_seconds=0.2
        )
        for which, network in chosen.items():
            ratio = taken.ratio(which, STATIC)
            share = macs[which] / macs[STATIC]
            per_mac = Spread(ratio.median / share, ratio.low / share, ratio.high / share, ratio.count)
            counts = count_parameters(network), macs[which]
            rows.append(Time(name, layout, mode, which, *counts, taken.time(which), ratio, per_mac, taken.undisturbed))
            show(rows[-1])
    return rows


def show(time: Time) -> None:
    goal = f"; target {TARGETS[time.mode]}" if time.candidate == KERNELDNA else ""
    print(
        f"{time.network:17}{time.layout:14}{time.mode:9}{time.candidate:14}{time.seconds.median * 1e3:8.1f} ms"
        f"  to static {time.ratio.median:.3f} [{time.ratio.low:.3f}, {time.ratio.high:.3f}]"
        f"  per MAC {time.per_mac.median:.3f}{goal}{'' if time.undisturbed else ' (disturbed)'}",
        flush=True,
    )


def memory(name: str, layout: str, batch: int, size: int) -> list[Memory]:
    extra = activations_of_extra_layers(name, batch, size)
    rows = []
    for mode in MODES:
        static, ours = (
            peak_in_its_own_process(name, which, layout, mode, batch, size) for which in (STATIC, KERNELDNA)
        )
        allowed = weights(name, STATIC) + static + (extra if mode == "training" else 0)
        rows.append(Memory(name, layout, mode, static, ours, weights(name, STATIC), weights(name, KERNELDNA), allowed))
        sizes = ", ".join(f"{what} {value / 2**20:.1f}" for what, value in list(asdict(rows[-1]).items())[3:])
        print(f"{name:17}{layout:14}{mode:9}peak MiB: {sizes}", flush=True)
    return rows


def main() -> None:
    restart_with(KEEP_MEMORY)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=listed(one_of(PAIRS)), default=list(PAIRS), help="of " + ", ".join(PAIRS))
    parser.add_argument("--layouts", type=listed(one_of(LAYOUTS)), default=list(LAYOUTS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the figures; the table goes beside it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    cells = list(product(options.networks, options.layouts))
    timed = [row for cell in cells for row in times(*cell, options.batch, options.size, options.rounds)]
    peaks = [row for cell in cells for row in memory(*cell, options.batch, options.size)]
    machine = {name: value for name, value in description().items() if name != "package"}
    text = markdown(timed, peaks, machine, f"Batch {options.batch}, {options.size}x{options.size}")
    if options.json:
        figures = {
            "machine_info": machine,
            "batch": options.batch,
            "size": options.size,
            "times": [asdict(row) for row in timed],
            "memory": [asdict(row) for row in peaks],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
