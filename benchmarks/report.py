"""Turns the saved figures into report.md and plots, in the folder that holds them.

python -m benchmarks.report benchmarks/results"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .candidates import STATIC
from .cases import PLAIN_SHAPES, Case, Shape
from .paired import Spread
from .plots import plot
from .summary import Ratio, summarise

Entry = dict[str, Any]
MEBI = 2**20


def spread(saved: Entry) -> Spread:
    return Spread(saved["median"], saved["low"], saved["high"], saved["rounds"])


def case_of(entry: Entry) -> Case:
    return Case(Shape.parse(entry["shape"]), entry["batch"], entry["layout"], entry["mode"])


def ratios(entries: Iterable[Entry]) -> Iterator[Ratio]:
    for entry in entries:
        for base in (STATIC, "composite"):
            if entry["candidate"] != base:
                saved = spread(entry[f"to_{base}"])
                yield Ratio(case_of(entry), entry["candidate"], base, saved, entry["undisturbed"])


def table(heads: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "| --- |" + " ---: |" * (len(heads) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def machine(info: Entry) -> str:
    return ", ".join(f"{key} {value}" for key, value in info.items())


def summary_section(found: list[Ratio]) -> Iterator[str]:
    rows = []
    for line in summarise(found):
        cell = line.worst.case
        target = "{:.2f} / {:.2f}".format(*line.target) if line.target else ""
        verdict = ("yes" if line.met else "**no**") if line.target else ""
        label = f"{line.candidate} to {line.base}, {line.family}, {line.layout}, {line.mode}"
        figures = f"{line.mean:.2f} / {line.worst.spread.median:.2f}" + " (disturbed)" * bool(line.disturbed)
        rows.append([label, figures, f"{cell.shape.name} b{cell.batch}", str(line.cells), target, verdict])
    yield "## Geometric mean / worst"
    yield ""
    yield from table(["ratio", "mean / worst", "worst case", "cases", "target", "met"], rows)


def latency_section(entries: list[Entry]) -> Iterator[str]:
    """One table for each mode and layout: a row for each shape and batch, a column for each candidate."""
    by_case: dict[Case, dict[str, Entry]] = {}
    for entry in entries:
        by_case.setdefault(case_of(entry), {})[entry["candidate"]] = entry
    for mode, layout in dict.fromkeys((case.mode, case.layout) for case in by_case):
        chosen = {case: found for case, found in by_case.items() if (case.mode, case.layout) == (mode, layout)}
        names = list(dict.fromkeys(name for found in chosen.values() for name in found if name != STATIC))
        rows = []
        for case, found in chosen.items():
            cells = []
            for name in names:
                s = spread(found[name]["to_static"]) if name in found else None
                cells.append(f"{s.median:.2f} [{s.low:.2f}, {s.high:.2f}]" if s else "")
            milliseconds = found[STATIC]["seconds"]["median"] * 1e3
            label = f"{case.shape.name} b{case.batch}" + " (disturbed)" * (not found[STATIC]["undisturbed"])
            rows.append([label, f"{milliseconds:.2f}", *cells])
        yield f"## {mode.capitalize()}, {layout}: ratio to static F.conv2d, median and quartiles"
        yield ""
        yield from table(["", "static, ms", *names], rows)


def memory_section(saved: Entry) -> Iterator[str]:
    by_case: dict[Case, dict[str, int]] = {}
    for entry in saved["peaks"]:
        by_case.setdefault(case_of(entry), {})[entry["candidate"]] = entry["bytes"]
    names = list(dict.fromkeys(name for found in by_case.values() for name in found))
    rows = [[case.name, *(f"{found[name] / MEBI:.1f}" for name in names)] for case, found in by_case.items()]
    yield "## Peak memory of one call, MiB"
    yield ""
    yield from table(["", *names], rows)


def model_section(saved: Entry) -> Iterator[str]:
    rows = []
    for entry in saved["models"]:
        s = spread(entry["ratio"])
        size, milliseconds = f"{entry['parameters'] / 1e6:.2f}", f"{entry['milliseconds']:.1f}"
        rows.append(
            [
                f"{entry['candidate']}, {entry['mode']}",
                size,
                milliseconds,
                f"{s.median:.2f} [{s.low:.2f}, {s.high:.2f}]",
            ]
        )
    yield "## ResNet-18 with ODConv's attention"
    yield ""
    yield from table(["", "parameters, M", "ms", "ratio to static"], rows)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/results")
    latency = json.loads((folder / "latency.json").read_text())
    found = list(ratios(latency["benchmarks"]))
    lines = ["# Measurements", "", f"Made by `make bench`: {machine(latency['machine_info'])}.", ""]
    lines += summary_section(found)
    lines += latency_section(latency["benchmarks"])
    for name, section in (("memory", memory_section), ("odconv_resnet18", model_section)):
        if (folder / f"{name}.json").exists():
            lines += section(json.loads((folder / f"{name}.json").read_text()))
    to_static = [ratio for ratio in found if ratio.base == STATIC]
    plain = [ratio for ratio in to_static if ratio.case.shape.name in PLAIN_SHAPES]
    plot(plain, folder / "latency.png")
    plot([ratio for ratio in to_static if ratio not in plain], folder / "latency_other_shapes.png")
    (folder / "report.md").write_text("\n".join(lines))
    print(*summarise(found), sep="\n")
    print(f"\n{folder}/report.md, latency.png, latency_other_shapes.png")


if __name__ == "__main__":
    main()
