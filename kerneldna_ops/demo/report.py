"""The results as a table to read and as JSON and CSV of the same figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev

from .._files import replacing
from .checkpoint import Run
from .measure import Cost


@dataclass(frozen=True)
class Row:
    """One variant. Accuracy is on the test images, over `runs` seeds; macs are for one image; low and high are
    quartiles; ratios are to `static`, paired round by round; None: there is no such figure."""

    variant: str
    runs: int
    accuracy_percent: float | None
    accuracy_deviation: float | None
    parameters: int
    macs: int
    forward_ms: float
    forward_ms_low: float
    forward_ms_high: float
    training_ms: float
    training_ms_low: float
    training_ms_high: float
    forward_ratio: float
    forward_ratio_low: float
    forward_ratio_high: float
    training_ratio: float
    training_ratio_low: float
    training_ratio_high: float
    peak_memory_mib: float | None


def make_row(variant: str, cost: Cost, runs: Sequence[Run]) -> Row:
    accuracies = [run.test_accuracy for run in runs if run.variant == variant]
    spreads = {name: getattr(cost, name) for name in ("forward_ms", "training_ms", "forward_ratio", "training_ratio")}
    return Row(
        variant=variant,
        runs=len(accuracies),
        accuracy_percent=mean(accuracies) if accuracies else None,
        accuracy_deviation=stdev(accuracies) if len(accuracies) > 1 else None,
        parameters=cost.parameters,
        macs=cost.macs,
        peak_memory_mib=cost.peak_memory,
        **{name: spread.median for name, spread in spreads.items()},
        **{f"{name}_low": spread.low for name, spread in spreads.items()},
        **{f"{name}_high": spread.high for name, spread in spreads.items()},
    )


def to_markdown(rows: Sequence[Row]) -> str:
    header = (
        "variant",
        "seeds",
        "test accuracy, %",
        "parameters",
        "MMAC per image",
        "forward, ms",
        "to static",
        "training, ms",
        "to static",
        "peak memory, MiB",
    )
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    accuracy = "n/a" if row.accuracy_percent is None else f"{row.accuracy_percent:.2f}"
    deviation = "" if row.accuracy_deviation is None else f" ± {row.accuracy_deviation:.2f}"
    return (
        row.variant,
        str(row.runs),
        accuracy + deviation,
        f"{row.parameters:,}",
        f"{row.macs / 1e6:.2f}",
        f"{row.forward_ms:.1f} ({row.forward_ms_low:.1f} to {row.forward_ms_high:.1f})",
        f"{row.forward_ratio:.2f} ({row.forward_ratio_low:.2f} to {row.forward_ratio_high:.2f})",
        f"{row.training_ms:.1f} ({row.training_ms_low:.1f} to {row.training_ms_high:.1f})",
        f"{row.training_ratio:.2f} ({row.training_ratio_low:.2f} to {row.training_ratio_high:.2f})",
        "n/a" if row.peak_memory_mib is None else f"{row.peak_memory_mib:.1f}",
    )


def notes(setting: Mapping[str, object]) -> list[str]:
    """How the figures of the table came about."""
    lines = [
        "Images: scikit-learn's digits, enlarged to 32x32; {training_images} to train on, {validation_images} to choose"
        " the epoch by, {test_images} to report on.",
        "Accuracy: mean ± standard deviation over the seeds. MMAC: convolutions and matrix products, squeeze-excite"
        " included.",
        "Times: a batch of {batch_size} on {environment[devices][cpu]}, torch {environment[versions][torch]}; median"
        " (quartiles) of {rounds} rounds in which the networks take turns, ratios taken within each round.",
        "Memory: what training steps on a batch of {batch_size} add to the resident memory of their process at most.",
    ]
    if setting["stopped"] is not None:
        lines.append("{stopped}")
    return [line.format_map(setting) for line in lines]


def write_markdown(path: Path, rows: Sequence[Row], setting: Mapping[str, object]) -> None:
    with replacing(path) as temporary:
        listed = "".join(f"* {note}\n" for note in notes(setting))
        temporary.write_text(f"{to_markdown(rows)}\n{listed}", encoding="utf-8")


def write_json(path: Path, rows: Sequence[Row], runs: Sequence[Run], setting: Mapping[str, object]) -> None:
    content = {
        "setting": dict(setting),
        "variants": [asdict(row) for row in rows],
        "runs": [asdict(run) for run in runs],
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """The variants of the JSON file; what is null there is empty here."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
