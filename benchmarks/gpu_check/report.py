"""The tables at the end of a run, narrow and short: all figures are in the JSON file."""

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
MOST_ERRORS = 10


def lines(data: dict[str, Any]) -> Iterator[str]:
    yield from _head(data)
    # The most important ran first and stand last.
    sections = dict.fromkeys(row["section"] for row in reversed(data["rows"]))
    for section in sections:
        yield from _section(section, [row for row in data["rows"] if row["section"] == section], data)
    yield from _tail(data)


def _head(data: dict[str, Any]) -> Iterator[str]:
    found, ceilings = data["environment"], data["ceilings"]
    versions = "  ".join(f"{name} {found[name]}" for name in ("torch", "triton", "commit"))
    yield f"{found['device']}  driver {found['gpu'].get('driver_version')}  {versions}"
    yield "copy {copy_tb_per_s:.2f} TB/s  matmul {matmul_tflop_per_s:.0f} TFLOP/s".format(**ceilings)
    compiled, checks = data["compiled"], data["checks"]
    yield f"{compiled['compiled']} of {compiled['kernels']} kernels compiled ahead in {compiled['seconds']} s"
    yield f"{checks['compared']} results right against float64"
    for backend, said in checks["in_torch"].items():
        yield f"{backend}: " + ", ".join(f"{name} {answer}" for name, answer in said.items())
    yield f"CUDA kernels of the library: {found['cuda_kernels']}"


def _section(section: str, rows: list[Row], data: dict[str, Any]) -> Iterator[str]:
    """A line for each cell: its first column in its unit, all others as multiples of that."""
    spread = max(_spread(row) for row in rows)
    measured = f"half the quartiles' range at most {spread:.0%}"
    note = "wall clock of a dry run, no measurement" if data["dry_run"] else measured
    yield ""
    yield f"== {section} ({note})"
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(f"{row['shape']} b{row['batch']} {row['precision']} {row['mode']}", []).append(row)
    lines = {name: _columns(cell) for name, cell in cells.items()}
    labels = list(dict.fromkeys(label for columns in lines.values() for label in columns))
    first = max(map(len, lines))
    yield " ".join([" " * first, *labels])
    for name, columns in lines.items():
        yield " ".join([name.ljust(first), *(columns.get(label, "-").rjust(len(label)) for label in labels)])


def _columns(rows: list[Row]) -> dict[str, str]:
    """By candidate; of the configurations of a form the fastest."""
    figures: dict[str, float | None] = {}
    for row in rows:
        label = row["candidate"]
        if row.get("function") == "conv":
            label = f"{label.split()[0]} {row['attentions']}"
        value = row["bytes"] / 2**20 if "bytes" in row else row.get("us")
        known = figures.get(label)
        figures[label] = value if known is None else known if value is None else min(known, value)
    base = next(iter(figures.values()))
    unit = "MiB" if any("bytes" in row for row in rows) else "us"

    def text(label: str, value: float | None) -> str:
        if value is None:
            return "FAILED"
        if not base or label == next(iter(figures)):
            return f"{value:.1f}"
        return f"{value / base:.2f}"

    (start, *others) = [(label, text(label, value)) for label, value in figures.items()]
    launches = [("launches", str(row["launches"])) for row in rows if "launches" in row]
    return dict([(f"{start[0]}, {unit}", start[1]), *others, *launches])


def _spread(row: Row) -> float:
    return (row["high"] - row["low"]) / row["us"] / 2 if row.get("us") else 0


def _fastest(rows: list[Row]) -> Iterator[str]:
    """With all attentions per sample the fastest configuration of each form, in the sections that come first."""
    for section in ("forward 3x3", "forward 1x1"):
        best: dict[tuple[str, str], Row] = {}
        for row in rows:
            if row["section"] == section and "key" in row and row["attentions"] == "cfs" and "us" in row:
                key = (row["shape"], row["candidate"].split()[0])
                best[key] = min(best.get(key, row), row, key=lambda r: r["us"])
        for shape in dict.fromkeys(shape for shape, _ in best):
            found = [row for (where, _), row in best.items() if where == shape]
            yield f"{shape}: " + "; ".join(
                f"{row['candidate'].removesuffix(' cfs')} {row['us']:.1f} us"
                + (f", predicted {row['predicted_us']:.1f}" if "predicted_us" in row else "")
                for row in sorted(found, key=lambda r: r["us"])
            )


def _tail(data: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield from _fastest(data["rows"])
    errors = [row for row in data["rows"] if "error" in row]
    for row in errors[:MOST_ERRORS]:
        yield f"FAILED {row['section']} {row['shape']} b{row['batch']} {row['candidate']}: {row['error']}"[:200]
    if len(errors) > MOST_ERRORS:
        yield f"and {len(errors) - MOST_ERRORS} more"
    for failure in data["compiled"]["failures"][:5]:
        yield f"NOT COMPILED {failure}"[:200]
    for wrong in data["wrong"]:
        yield f"WRONG {wrong}"
    for tool, said in data["sanitizer"].items():
        yield f"compute-sanitizer {tool}: {said}"
    missing = [entry["what"] for entry in data["not_run"]]
    yield f"not run: {', '.join(missing) or 'nothing'}"
    for entry in data["targets"]:
        figures = ", ".join(f"{name} {value}" for name, value in entry["measured"].items())
        yield f"{entry['state'].upper()}: {entry['target']}" + (f" ({figures})" if figures else "")
    yield f"all figures: {data['file']}"
