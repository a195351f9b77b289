"""docs/numbers.md and the picture of the README, from the figures that were saved in benchmarks/results.

python -m benchmarks.numbers

A test makes the page again and compares it with the one that is committed (tests/benchmarks/test_numbers.py)."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean, mean, stdev
from typing import Any

from kerneldna_ops.measure.tables import markdown

from . import mixtures
from .candidates import STATIC
from .cases import PLAIN_SHAPES, Case
from .entries import spread
from .frontier.variants import VARIANTS
from .networks.candidates import DYNAMIC, GROUPED
from .report import MEBI, by_case, ratios
from .summary import Ratio, summarise

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, PICTURE = ROOT / "docs" / "numbers.md", ROOT / "docs" / "ratios.png"

# Files of before 2026-12 name no family; those that are committed are of family 26.
PROCESSORS = {"AMD EPYC": "AMD EPYC (Zen 5)"}

OURS = "kerneldna"
RIVALS = {
    "op": OURS,
    "composite": "composed of PyTorch operations",
    "loop": "loop over samples",
    "grouped": "grouped convolution",
}
# On the picture: one column a shape, at this batch, in NCHW.
PICTURED_BATCH = 32
PICTURED = ("op", "composite", "grouped")

Saved = dict[str, Any]


def load(name: str) -> Saved:
    return json.loads((RESULTS / f"{name}.json").read_text())  # type: ignore[no-any-return]


def paragraph(text: str) -> Iterator[str]:
    yield textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
    yield ""


def made_by(command: str, machine: Saved) -> Iterator[str]:
    processor = PROCESSORS.get(machine["cpu"], machine["cpu"])
    cores = f"{machine['cores']} cores of an {processor}"
    yield f"`{command}` on {cores}, torch {machine['torch']}, commit {machine['commit']}."
    yield ""


def latency_section(entries: list[Saved], machine: Saved) -> Iterator[str]:
    yield "## The op beside a static convolution"
    yield ""
    yield from paragraph(
        "Time relative to static `F.conv2d` in the same process, in turns, float32, 2 threads, all three "
        "attentions per "
        "sample, 3x3 kernels; medians, below 1 is faster than static. Batch 1 / 8 / 32."
    )
    cases = by_case(entries)
    rows: dict[str, dict[str, list[str]]] = {}
    for case, found in cases.items():
        if case.shape.name in PLAIN_SHAPES:
            row = rows.setdefault(f"{case.mode}, {case.layout}, {case.shape.name}", {})
            for name in RIVALS:
                row.setdefault(name, []).append(f"{spread(found[name]['to_static']).median:.2f}")
    yield markdown(
        ["", *RIVALS.values()], ([title, *(" / ".join(row[name]) for name in RIVALS)] for title, row in rows.items())
    )
    found_ratios = list(ratios(entries))
    yield from family_section(found_ratios)
    yield from made_by("make bench", machine)
    yield from paragraph("Every cell with its quartiles: [report.md](../benchmarks/results/report.md).")
    yield "![Ratios to static F.conv2d](../benchmarks/results/latency.png)"
    yield ""


def family_section(found: list[Ratio]) -> Iterator[str]:
    """Geometric mean and worst cell of each family of shapes."""
    lines = {(line.family, line.layout, line.mode, line.candidate, line.base): line for line in summarise(found)}
    yield from paragraph(
        "Geometric mean / worst over the batches; `f, s static` is a layer as published: only c is per sample."
    )
    rows = []
    for family, layout, mode in dict.fromkeys(key[:3] for key in lines):
        cells = []
        for candidate, base in (("op", STATIC), ("op_static", STATIC), ("op", "composite")):
            of_candidate = [
                ratio
                for ratio in found
                if (ratio.candidate, ratio.base) == (candidate, base)
                and (ratio.case.family, ratio.case.layout, ratio.case.mode) == (family, layout, mode)
            ]
            average = geometric_mean([ratio.spread.median for ratio in of_candidate])
            worst = max(of_candidate, key=lambda ratio: ratio.spread.median)
            cells.append(f"{average:.2f} / {worst.spread.median:.2f} ({worst.case.shape.name} b{worst.case.batch})")
        rows.append([f"{mode}, {layout}, {family}", *cells])
    yield markdown(["", "to static", "f, s static: to static", "to composed"], rows)


def memory_section(saved: Saved) -> Iterator[str]:
    yield "## Peak memory of one call"
    yield ""
    yield from paragraph("MiB, 3x3, NCHW, batch 32, all attentions per sample.")
    names = (STATIC, *RIVALS)
    rows = [
        [f"{case.mode}, {case.shape.name}", *(f"{found[name]['bytes'] / MEBI:.1f}" for name in names)]
        for case, found in by_case(saved["peaks"]).items()
        if case.batch == PICTURED_BATCH and case.layout == "nchw" and case.shape.name in PLAIN_SHAPES
    ]
    yield markdown(["", STATIC, *RIVALS.values()], rows)
    yield from made_by("python -m benchmarks.memory", saved["machine_info"])


def networks_section(saved: Saved) -> Iterator[str]:
    yield "## The published networks beside their static twins"
    yield ""
    size = saved["size"]
    yield from paragraph(
        f"Batch {saved['batch']}, {size}x{size}, float32, 2 threads. Per MAC: the ratio of times divided "
        "by that of "
        "multiplications, as KernelDNA's stages have more layers. NCHW / channels_last."
    )
    ours = [time for time in saved["times"] if time["candidate"] == "kerneldna"]
    rows = []
    for network in dict.fromkeys(time["network"] for time in ours):
        cells = []
        for mode in ("forward", "training"):
            chosen = [time for time in ours if (time["network"], time["mode"]) == (network, mode)]
            for figure in ("ratio", "per_mac"):
                cells.append(" / ".join(f"{time[figure]['median']:.2f}" for time in chosen))
        rows.append([network, *cells])
    yield markdown(["", "forward", "per MAC", "training", "per MAC"], rows)
    yield from made_by("make networks", saved["machine_info"])
    folded = [1 - time["ratio"]["median"] for time in saved["times"] if time["candidate"] == "static folded"]
    yield from paragraph(
        f"A static network whose BatchNorms are folded takes {min(folded):.0%} to {max(folded):.0%} less "
        "time in the forward pass than the "
        "plain one. With quartiles, memory and the folded networks: "
        "[networks.md](../benchmarks/results/networks.md)."
    )


MODES, FORMS = ("forward", "training"), (DYNAMIC, GROUPED)
DYNAMIC_NETWORKS = {
    "odconv_resnet18": "ResNet-18, ODConv of one kernel in every 3x3",
    "odconv4_resnet18": "ResNet-18, ODConv of four kernels in every 3x3",
    "condconv4_mobilenet_v2": "MobileNetV2, CondConv of four kernels in every block",
}


def dynamic_networks_section(saved: Saved) -> Iterator[str]:
    yield "## Networks of ODConv's and CondConv's layers"
    yield ""
    yield from paragraph(
        f"Batch {saved['batch']}, {saved['size']}x{saved['size']}, float32, {saved['times'][0]['layout'].upper()}: time"
        " to the static network, attention and routing included, by the layers of `kerneldna_ops.nn` and by the usual"
        " convolution of N groups."
    )
    found = {(time["network"], time["mode"], time["candidate"]): time for time in saved["times"]}
    rows = [
        [label, *(f"{spread(found[network, mode, form]['ratio']):.2f}" for mode in MODES for form in FORMS)]
        for network, label in DYNAMIC_NETWORKS.items()
    ]
    yield markdown(["", *(f"{mode}, {form}" for mode in MODES for form in FORMS)], rows)
    yield from made_by("make networks", saved["machine_info"])


def modulated_section(saved: Saved, up: Saved) -> Iterator[str]:
    yield "## StyleGAN's modulated convolution"
    yield ""
    yield from paragraph(
        "Time of `modulated_conv2d` at 512 channels, 4x4 to 64x64, batch 1 and 4, relative to StyleGAN's "
        "own forms: least and "
        "greatest ratio."
    )
    rows = []
    for mode in dict.fromkeys(row["mode"] for row in saved["rows"]):
        cells = []
        for form in ("fused", "not fused", "static"):
            found = [r["ratios"].get(f"op to {form}", {}).get("median") for r in saved["rows"] if r["mode"] == mode]
            known = [ratio for ratio in found if ratio is not None]
            cells.append(f"{min(known):.2f} to {max(known):.2f}" if known else "")
        rows.append([mode, *cells])
    yield markdown(["", "to fused (N groups)", "to not fused", "to static"], rows)
    yield from paragraph(
        "It loses in the path length penalty, whose double backward costs more than the fused form's "
        "from 32x32 on "
        "([table](../benchmarks/results/modulated.md))."
    )
    yield from made_by("python -m benchmarks.modulated", saved["machine_info"])
    yield from paragraph(
        "With up=2, relative to `F.conv_transpose2d` with styles and demodulation on what goes in and comes out, batch "
        "1 / 8, the same low-pass filter on both sides ([table](../benchmarks/results/modulated_up.md))."
    )
    rows = []
    for mode in dict.fromkeys(row["mode"] for row in up["rows"]):
        of_mode = [row for row in up["rows"] if row["mode"] == mode]
        names = list(dict.fromkeys(f"{row['channels']}@{row['size']}" for row in of_mode))
        found = [[row["ratio"]["median"] for row in of_mode if f"{row['channels']}@{row['size']}" == n] for n in names]
        rows.append([mode, *(" / ".join(f"{ratio:.2f}" for ratio in ratios) for ratios in found)])
    yield markdown(["up=2", *names], rows)
    yield from made_by("python -m benchmarks.modulated_up", up["machine_info"])


def mixtures_section(saved: Saved) -> Iterator[str]:
    yield "## Mixtures of kernels, and kernels for each sample"
    yield ""
    yield from paragraph(
        "Time relative to a static `F.conv2d`, 3x3, float32, 64@56 to 512@7: geometric mean / worst. A mixture of K "
        "kernels has channel and filter attention per sample besides; N groups is what everybody else does, a "
        "convolution of kernels made for each sample."
    )
    yield markdown(["", "op", "N groups"], list(mixtures.summary(saved["rows"])))
    yield from paragraph(
        "Line by line, and at batch 1 beside the time that reading the K kernels takes: "
        "[mixtures.md](../benchmarks/results/mixtures.md)."
    )
    yield from mixtures.memory(saved["rows"]).strip().splitlines()
    yield ""
    yield from made_by("python -m benchmarks.mixtures", saved["machine_info"])


def frontier_section(saved: Saved) -> Iterator[str]:
    yield "## Accuracy against size and time"
    yield ""
    yield from paragraph(
        f"Fashion-MNIST, {saved['train']:,} images, {saved['epochs']} epochs, {saved['seeds']} seeds, one "
        "recipe for all; time of a training step, "
        "to static. In layers this small KernelDNA saves parameters, not time, and pays with accuracy. "
        "What beats it where, line "
        "by line, and plots: [table.md](../benchmarks/results/frontier/table.md)."
    )
    networks = list(dict.fromkeys(found["network"] for found in saved["variants"]))
    found = {(row["network"], row["variant"]): row for row in saved["variants"]}
    rows = []
    for variant in dict.fromkeys(row["variant"] for row in saved["variants"]):
        cells = []
        for network in networks:
            row = found[network, variant]
            accuracies, cost = row["accuracies"], row["cost"]
            cells += [
                f"{mean(accuracies):.2f} ± {stdev(accuracies):.2f}",
                f"{cost['parameters']:,}",
                f"{cost['training_ratio']['median']:.2f}",
            ]
        rows.append([VARIANTS[variant].label, *cells])
    heads = [head for network in networks for head in (f"small {network}: test accuracy, %", "parameters", "time")]
    yield markdown(["", *heads], rows)
    yield from made_by("make frontier", saved["machine_info"])


def cka_section(saved: Saved) -> Iterator[str]:
    cka = saved["costs"]["cka"]
    yield "## CKA"
    yield ""
    cost = f"{cka['seconds']:.0f} s and {cka['peak_bytes'] / 1e9:.1f} GB"
    yield from paragraph(
        f"All convolutions of ResNet-50 on {saved['images']} images of "
        f"{saved['image_size']}x{saved['image_size']}: {cost}."
    )
    yield from made_by("python -m benchmarks.cka_cost", saved["machine"])


def lines() -> Iterator[str]:
    latency = load("latency")
    yield "# Numbers"
    yield ""
    yield from paragraph(
        "Made by `python -m benchmarks.numbers` from the files in "
        "[benchmarks/results](../benchmarks/results); do not edit. All are "
        "of a CPU, as no GPU has run this code yet. Losses stand beside gains: ratios above 1 are slower "
        "than what they are "
        "compared with."
    )
    yield from latency_section(latency["benchmarks"], latency["machine_info"])
    yield from memory_section(load("memory"))
    yield from networks_section(load("networks"))
    yield from dynamic_networks_section(load("dynamic_networks"))
    yield from modulated_section(load("modulated"), load("modulated_up"))
    yield from mixtures_section(load("mixtures"))
    yield from frontier_section(load("frontier/results"))
    yield from cka_section(load("cka_cost"))
    yield from paragraph(
        "What the compilers make of the GPU kernels: [Triton](../benchmarks/results/compile/3.9.0.json), "
        "[CUDA](../benchmarks/results/compile/cuda.md)."
    )


def page() -> str:
    return "\n".join(lines()) + "\n"


def pictured() -> dict[str, dict[str, list[float]]]:
    """mode -> candidate -> its ratio to static for each of the 3x3 shapes."""
    found: dict[str, dict[str, list[float]]] = {}
    for case, entries in by_case(load("latency")["benchmarks"]).items():
        if is_pictured(case):
            for name in PICTURED:
                ratio = spread(entries[name]["to_static"]).median
                found.setdefault(case.mode, {}).setdefault(name, []).append(ratio)
    return found


def is_pictured(case: Case) -> bool:
    return case.shape.name in PLAIN_SHAPES and case.batch == PICTURED_BATCH and case.layout == "nchw"


def draw(file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = [f"{name.split('@')[0]} channels\n{name.split('@')[1]}x{name.split('@')[1]}" for name in PLAIN_SHAPES]
    colours = ("tab:red", "tab:blue", "0.35")
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.2), sharey=True, layout="constrained")
    for axis, (mode, of_mode) in zip(axes, pictured().items(), strict=True):
        for i, (name, colour) in enumerate(zip(PICTURED, colours, strict=True)):
            places = [column + 0.27 * (i - 1) for column in range(len(shapes))]
            bars = axis.bar(places, of_mode[name], 0.25, color=colour, label=RIVALS[name])
            axis.bar_label(bars, fmt="%.2g" if name != "op" else "%.2f", fontsize=7)
        axis.axhline(1, color="black", linewidth=1)
        axis.set_xticks(range(len(shapes)), shapes, fontsize=9)
        axis.set_title(mode, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("time, static F.conv2d = 1", fontsize=9)
    axes[0].legend(fontsize=9, frameon=False)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    PAGE.write_text(page())
    draw(PICTURE)
    print(f"{PAGE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
