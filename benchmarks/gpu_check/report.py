"""The tables at the end of a run, narrow and short: all figures are in the JSON file."""

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]


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
    yield f"{checks['compared']} results right against float64; " + ", ".join(
        f"{name}: {said}" for name, said in checks["in_torch"].items()
    )


def _section(section: str, rows: list[Row], data: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"== {section}" + (" (wall clock of a dry run, no measurement)" if data["dry_run"] else "")
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        cells.setdefault((row["shape"], row["batch"], row["precision"], row["mode"]), []).append(row)
    for (shape, batch, precision, mode), cell in cells.items():
        yield f"{shape} b{batch} {precision} {mode}: " + "; ".join(_cell(cell))


def _cell(rows: list[Row]) -> Iterator[str]:
    """Every named candidate; of the configurations the fastest for each kind of attentions and form."""
    base = next((row["us"] for row in rows if row["candidate"].startswith("static") and "us" in row), None)
    tried = [row for row in rows if row.get("function") == "conv"]
    for row in rows:
        if row not in tried:
            yield _figure(row, base)
    fastest: dict[tuple[str, str], Row] = {}
    for row in tried:
        if "us" in row:
            kind = (row["candidate"].split()[0], row["attentions"])
            fastest[kind] = min(fastest.get(kind, row), row, key=lambda r: r["us"])
    for row in fastest.values():
        predicted = f", predicted {row['predicted_us']:.0f}" if "predicted_us" in row else ""
        yield _figure(row, base) + f" ({row['us']:.0f} us{predicted})"
    failed = sum("error" in row for row in tried)
    if failed:
        yield f"{failed} configurations failed"


def _figure(row: Row, base: float | None) -> str:
    name = row["candidate"]
    if "error" in row:
        return f"{name} FAILED"
    if "bytes" in row:
        return f"{name} {row['bytes'] / 2**20:.0f} MiB"
    spread = (row["high"] - row["low"]) / row["us"] / 2 if row["us"] else 0
    figure = f"{row['us'] / base:.2f}x" if base and row["us"] != base else f"{row['us']:.1f} us"
    text = f"{name} {figure}" + (f" +-{100 * spread:.0f}%" if spread > 0.02 else "")
    return text + (f" in {row['launches']} launches" if "launches" in row else "")


def _tail(data: dict[str, Any]) -> Iterator[str]:
    yield ""
    errors = [row for row in data["rows"] if "error" in row]
    for row in errors[:10]:
        yield f"FAILED {row['section']} {row['shape']} b{row['batch']} {row['candidate']}: {row['error']}"[:200]
    if len(errors) > 10:
        yield f"and {len(errors) - 10} more"
    for failure in data["compiled"]["failures"][:5]:
        yield f"NOT COMPILED {failure}"[:200]
    for wrong in data["wrong"]:
        yield f"WRONG {wrong}"
    missing = [entry["what"] for entry in data["not_run"]]
    yield f"not run: {', '.join(missing) or 'nothing'}"
    for entry in data["targets"]:
        figures = ", ".join(f"{name} {value}" for name, value in entry["measured"].items())
        yield f"{entry['state'].upper()}: {entry['target']}" + (f" ({figures})" if figures else "")
    yield f"all figures: {data['file']}"
