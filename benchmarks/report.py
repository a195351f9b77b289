"""Turns the saved figures into report.md and plots, in the folder that holds them.

python -m benchmarks.report benchmarks/results"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kerneldna_ops.measure.tables import markdown

from .candidates import STATIC
from .cases import PLAIN_SHAPES, Case
from .entries import BASES, Entry, case_of, spread
from .plots import panel, plot
from .summary import Ratio, summarise

MEBI = 2**20


def ratios(entries: Iterable[Entry]) -> Iterator[Ratio]:
    for entry in entries:
        for base in BASES:
            if entry["candidate"] != base and f"to_{base}" in entry:
                saved = spread(entry[f"to_{base}"])
                yield Ratio(case_of(entry), entry["candidate"], base, saved, entry["undisturbed"])


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
    yield markdown(["ratio", "mean / worst", "worst case", "cases", "target", "met"], rows)


def by_case(entries: Iterable[Entry]) -> dict[Case, dict[str, Entry]]:
    found: dict[Case, dict[str, Entry]] = {}
    for entry in entries:
        found.setdefault(case_of(entry), {})[entry["candidate"]] = entry
    return found


def names_in(found: Iterable[dict[str, Entry]]) -> list[str]:
    return list(dict.fromkeys(name for entries in found for name in entries))


def latency_section(entries: list[Entry]) -> Iterator[str]:
    """One table for each mode, layout and dtype: a row for each shape and batch, a column for each candidate."""
    cases = by_case(entries)
    for title in dict.fromkeys(map(panel, cases)):
        chosen = {case: found for case, found in cases.items() if panel(case) == title}
        names = [name for name in names_in(chosen.values()) if name != STATIC]
        rows = []
        for case, found in chosen.items():
            cells = []
            for name in names:
                cells.append(f"{spread(found[name]['to_static']):.2f}" if name in found else "")
            milliseconds = found[STATIC]["seconds"]["median"] * 1e3
            label = f"{case.shape.name} b{case.batch}" + " (disturbed)" * (not found[STATIC]["undisturbed"])
            rows.append([label, f"{milliseconds:.{2 if milliseconds >= 1 else 4}f}", *cells])
        yield f"## {title.capitalize()}: ratio to static F.conv2d, median and quartiles"
        yield ""
        yield markdown(["", "static, ms", *names], rows)


def host_section(entries: list[Entry]) -> Iterator[str]:
    """Of GPUs: where the batch is smallest the host decides."""
    cases = by_case(entry for entry in entries if entry["batch"] == 1 and "host_seconds" in entry)
    if not cases:
        return
    names = names_in(cases.values())
    rows = [
        [case.name, *(f"{found[n]['host_seconds']['median'] * 1e6:.1f}" if n in found else "" for n in names)]
        for case, found in cases.items()
    ]
    yield "## The host's time for a call, us, the device not awaited"
    yield ""
    yield markdown(["", *names], rows)


def memory_section(peaks: Iterable[Entry]) -> Iterator[str]:
    cases = by_case(peaks)
    if not cases:
        return
    names = names_in(cases.values())
    rows = [
        [case.name, *(f"{found[name]['bytes'] / MEBI:.1f}" if name in found else "" for name in names)]
        for case, found in cases.items()
    ]
    yield "## Peak memory of one call, MiB"
    yield ""
    yield markdown(["", *names], rows)


def lines(folder: Path) -> Iterator[str]:
    """Of report.md, from what figures the folder holds."""
    latency = json.loads((folder / "latency.json").read_text())
    entries = latency["benchmarks"]
    yield from ["# Measurements", "", f"Made by `make bench`: {machine(latency['machine_info'])}.", ""]
    yield from summary_section(list(ratios(entries)))
    yield from latency_section(entries)
    yield from host_section(entries)
    yield from memory_section({**entry, "bytes": entry["peak_bytes"]} for entry in entries if "peak_bytes" in entry)
    if (folder / "memory.json").exists():
        yield from memory_section(json.loads((folder / "memory.json").read_text())["peaks"])


def write(folder: Path) -> list[Ratio]:
    """report.md and the plots. The ratios to static and to composite."""
    (folder / "report.md").write_text("\n".join(lines(folder)))
    found = list(ratios(json.loads((folder / "latency.json").read_text())["benchmarks"]))
    to_static = [ratio for ratio in found if ratio.base == STATIC]
    plain = [ratio for ratio in to_static if ratio.case.shape.name in PLAIN_SHAPES]
    plot(plain, folder / "latency.png")
    plot([ratio for ratio in to_static if ratio not in plain], folder / "latency_other_shapes.png")
    return found


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/results")
    print(*summarise(write(folder)), sep="\n")
    print(f"\n{folder}/report.md, latency.png, latency_other_shapes.png")


if __name__ == "__main__":
    main()
