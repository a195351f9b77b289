"""What CKA between all convolutions of ResNet-50 costs: 512 random images of 224x224 in batches of 64, on 2 threads.

    python -m benchmarks.cka_cost --json benchmarks/results/cka_cost.json

Targets: at most 5 minutes, and less than 4 GB in the whole process, torch and the weights included. The forward passes
alone, which nobody looks at, are measured before, in the same process. The CPU time of both tells how long they would
have taken on a machine with nothing else to do: seconds of CPU / threads."""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch import Tensor

from kerneldna_ops.analysis import cka
from kerneldna_ops.measure.memory import resident

from .networks.candidates import NETWORKS, STATIC
from .process import description

MOST_SECONDS = 300
MOST_BYTES = 4e9


def batches(images: int, batch_size: int, size: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, images, batch_size):
        yield torch.randn(min(batch_size, images - start), 3, size, size, generator=generator)


def cost(call: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock and of CPU, and the process's peak of resident bytes until then."""
    start, start_cpu = perf_counter(), process_time()
    call()
    return {
        "seconds": perf_counter() - start,
        "cpu_seconds": process_time() - start_cpu,
        "peak_bytes": resident("VmHWM"),
    }


def verdict(figures: dict[str, float]) -> str:
    reached = figures["seconds"] <= MOST_SECONDS and figures["peak_bytes"] < MOST_BYTES
    return f"targets of {MOST_SECONDS} s and {MOST_BYTES / 1e9:.0f} GB: {'reached' if reached else 'missed'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = NETWORKS["resnet50"][STATIC]().eval()
    setting = options.images, options.batch_size, options.image_size

    @torch.no_grad()
    def forward() -> None:
        for batch in batches(*setting):
            network(batch)

    load = {"before": os.getloadavg()[0]}
    costs = {"forward": cost(forward), "cka": cost(lambda: cka(network, batches(*setting), progress=True))}
    load["after"] = os.getloadavg()[0]
    for name, figures in costs.items():
        print(
            f"{name:8}{figures['seconds']:8.1f} s {figures['cpu_seconds']:8.1f} s of CPU"
            f" {figures['peak_bytes'] / 1e9:6.2f} GB resident at most"
        )
    print(f"load of the machine, on {os.cpu_count()} cores: {load['before']:.1f} before, {load['after']:.1f} after")
    print(verdict(costs["cka"]))
    if options.json:
        names = ("images", "batch_size", "image_size")
        machine = {name: value for name, value in description().items() if name != "package"}
        content = {**dict(zip(names, setting, strict=True)), "costs": costs, "load": load, "machine": machine}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
