"""Time and peak memory of KernelDNA ResNet-18, ResNet-50, MobileNetV2 and ConvNeXt-Tiny beside torchvision's static
ones, and the time of a ResNet-18 of ODConv's layers, with one kernel and with four, and of a MobileNetV2 of CondConv's,
by the library's layers and by grouped convolutions.

    python -m benchmarks.networks --json benchmarks/results/networks.json
    python -m benchmarks.networks --networks odconv4_resnet18,condconv4_mobilenet_v2 --layouts nchw
    python -m benchmarks.networks --device cuda --dtype bfloat16 --layouts channels_last --json networks.json

On a GPU a pass is a CUDA graph, and its time the device's; weights and all have the dtype, without autocast.
Targets: time per multiplication at most 1.02 times the static network's forward, 1.05 times in training; memory at most
the static network's and the activations of the extra layers. The Markdown table is written beside the JSON file, both
anew after every network."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.cases import DTYPES, LAYOUTS, tf32_as_in
from benchmarks.devices import CPU, clock_of, graphed, torch_device
from benchmarks.options import add_device, listed, one_of, parsed
from benchmarks.process import KEEP_MEMORY, description, restart_with
from kerneldna_ops.measure.memory import in_a_process, peak_on_gpu
from kerneldna_ops.measure.networks import count_macs, count_parameters
from kerneldna_ops.measure.time import Timed, alternate

from .candidates import KERNELDNA, MODES, NETWORKS, PUBLISHED, RUN, STATIC, build, candidates, check, images
from .memory import activations_of_extra_layers, peak, weights
from .table import TARGETS, Memory, Time, markdown

# Of a batch: the reference has weights for each sample.
CHECKED = 8


@dataclass(frozen=True)
class Setting:
    layout: str
    batch: int
    size: int
    dtype: str
    device: str

    def images(self) -> Tensor:
        return images(self.batch, self.size, self.layout, self.dtype, self.device)

    def calls(self, networks: Mapping[str, nn.Module], mode: str) -> dict[str, Timed]:
        x = self.images()
        calls = {which: partial(RUN[mode], network, x) for which, network in networks.items()}
        return calls if self.device == CPU else {which: graphed(call) for which, call in calls.items()}


def times(name: str, of: Setting, rounds: int) -> list[Time]:
    networks = candidates(name, of.layout, of.dtype, of.device)
    check(networks, of.images()[:CHECKED], of.dtype)
    macs = {which: count_macs(network, of.images()[:1]) for which, network in networks.items()}
    rows = []
    for mode, wanted in MODES.items():
        chosen = {which: networks[which].train(mode == "training") for which in wanted if which in networks}
        taken = alternate(of.calls(chosen, mode), rounds, sample_seconds=0.2, clock=clock_of(of.device))
        for which, network in chosen.items():
            ratio = taken.ratio(which, STATIC)
            per_mac = ratio * (macs[STATIC] / macs[which])
            counts = count_parameters(network), macs[which]
            of_rounds = taken.time(which), ratio, per_mac, taken.undisturbed
            rows.append(Time(name, of.layout, mode, which, *counts, *of_rounds))
            show(rows[-1])
    return rows


def show(time: Time) -> None:
    goal = f"; target {TARGETS[time.mode]}" if time.candidate == KERNELDNA else ""
    print(
        f"{time.network:17}{time.layout:14}{time.mode:9}{time.candidate:15}{time.seconds.median * 1e3:8.1f} ms"
        f"  to static {time.ratio:.3f}  per MAC {time.per_mac.median:.3f}{goal}"
        f"{'' if time.undisturbed else ' (disturbed)'}",
        flush=True,
    )


def memory(name: str, of: Setting) -> list[Memory]:
    if KERNELDNA not in NETWORKS[name]:
        return []
    extra = activations_of_extra_layers(name, of.batch, of.size, of.dtype)
    own = {which: weights(name, which, of.dtype) for which in (STATIC, KERNELDNA)}
    rows = []
    for mode in MODES:
        if of.device == CPU:
            static, ours = (in_a_process(peak, name, which, of.layout, mode, of.batch, of.size) for which in own)
        else:
            static, ours = (peak_on_a_gpu(name, which, mode, of) for which in own)
        allowed = own[STATIC] + static + (extra if mode == "training" else 0)
        rows.append(Memory(name, of.layout, mode, static, ours, own[STATIC], own[KERNELDNA], allowed))
        sizes = ", ".join(f"{what} {value / 2**20:.1f}" for what, value in list(asdict(rows[-1]).items())[3:])
        print(f"{name:17}{of.layout:14}{mode:9}peak MiB: {sizes}", flush=True)
    return rows


def peak_on_a_gpu(name: str, which: str, mode: str, of: Setting) -> int:
    network = build(NETWORKS[name][which], of.layout)
    network.to(torch_device(of.device), DTYPES[of.dtype]).train(mode == "training")
    return peak_on_gpu(partial(RUN[mode], network, of.images()))


def write(file: Path, figures: dict[str, Any], timed: list[Time], peaks: list[Memory], setting: str) -> None:
    figures |= {"times": [asdict(row) for row in timed], "memory": [asdict(row) for row in peaks]}
    file.write_text(json.dumps(figures, indent=1) + "\n")
    file.with_suffix(".md").write_text(markdown(timed, peaks, figures["machine_info"], setting))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks", type=listed(one_of(NETWORKS)), default=list(PUBLISHED), help="of " + ", ".join(NETWORKS)
    )
    parser.add_argument("--layouts", type=listed(one_of(LAYOUTS)), default=list(LAYOUTS))
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--batch", type=int, help="default: 8 on the CPU, else 128")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where to write the figures; the table goes beside it")
    add_device(parser)
    return parser


def main() -> None:
    restart_with(KEEP_MEMORY)
    options = parsed(parser())
    batch = options.batch or (8 if options.device == CPU else 128)
    machine = {name: value for name, value in description(options.device).items() if name != "package"}
    figures = {"machine_info": machine, "batch": batch, "size": options.size, "dtype": options.dtype}
    setting = f"Batch {batch}, {options.size}x{options.size}, {options.dtype}"
    timed: list[Time] = []
    peaks: list[Memory] = []
    for name, layout in product(options.networks, options.layouts):
        of = Setting(layout, batch, options.size, options.dtype, options.device)
        with tf32_as_in(options.dtype):
            timed += times(name, of, options.rounds)
            peaks += memory(name, of)
        if options.json:
            write(options.json, figures, timed, peaks, setting)


if __name__ == "__main__":
    main()
