"""The steps of a run, in their order, each leaving what it found in the record."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from . import (
    cells,
    child_layer,
    correctness,
    in_torch,
    others,
    profile,
    report,
    sanitizer,
    targets,
    warm,
    ways,
    winners,
)
from .comparison import Wrong
from .machine import Machine, environment, gpu_state
from .measure import measure
from .record import Record
from .timing import ceilings, reason

# Shares of the time that is left when a section begins, in the order in which they run; what is not used goes on.
SHARES = (
    ("forward 3x3", 0.2),
    ("forward 1x1", 0.15),
    ("child layer", 0.1),
    ("training 3x3", 0.15),
    ("squeeze-excite", 0.1),
    ("backward parts", 0.25),
    ("launch overhead", 0.1),
    ("peak memory", 0.1),
)
REST = 0.4
MOST_LINES = 40  # about wrong results; all are in the file


def prepare(machine: Machine, record: Record, commit: str | None, seconds: float) -> None:
    """Versions, ceilings, compiled kernels."""
    record.data.update(dry_run=machine.dry, file=str(record.file))
    record.put("environment", {**environment(machine, commit), "cuda_kernels": ways.cuda_kernels(machine)[2]})
    begin = time.monotonic()
    record.put("ceilings", ceilings(machine))
    record.done("ceilings", begin)
    _say(record, f"{machine.name}: {record.data['ceilings']}")
    begin = time.monotonic()
    record.put("compiled", warm.compile_all(machine, seconds))
    record.done("compile", begin)
    _say(record, f"compiled {record.data['compiled']['compiled']} of {record.data['compiled']['kernels']} kernels")


def check(machine: Machine, record: Record) -> bool:
    """Whether all results are right; says in one line for each what is not."""
    begin = time.monotonic()
    try:
        comparisons = correctness.run(machine, lambda line: _say(record, line))
        for line in comparisons.wrong:
            record.wrong(line)
        if not comparisons.wrong:
            record.put("checks", {"compared": comparisons.count, "in_torch": in_torch.run(machine)})
    except Wrong as wrong:
        record.wrong(str(wrong))
    record.done("checks", begin)
    for line in record.data["wrong"][:MOST_LINES]:
        print(f"WRONG RESULT: {line}", flush=True)
    if record.data["wrong"]:
        print(f"{len(record.data['wrong'])} wrong results, nothing was timed", flush=True)
    return not record.data["wrong"]


def measure_all(machine: Machine, record: Record, reserved: float) -> None:
    """Every cell for which there is time; one that fails leaves its error and the run goes on."""
    for section, jobs in _jobs(machine):
        begin = time.monotonic()
        share = dict(SHARES).get(section, REST)
        end = begin + share * max(record.left - reserved, 0)
        for name, job in jobs:
            if time.monotonic() > end:
                record.not_run(name, "no time left")
                continue
            try:
                rows, wrong = job()
            except Exception as error:
                record.not_run(name, reason(error))
                _say(record, f"{name}: {reason(error)}")
                continue
            record.rows(rows)
            for line in wrong:
                record.wrong(line)
        record.done(section, begin)
        _say(record, section)


Job = tuple[str, Callable[[], tuple[list[dict[str, Any]], list[str]]]]


def _jobs(machine: Machine) -> Iterator[tuple[str, list[Job]]]:
    """Those of SHARES first, in its order."""
    sections: dict[str, list[Job]] = {}
    for cell in cells.plan(machine):
        sections.setdefault(cell.section, []).append((cell.name, lambda cell=cell: measure(machine, cell)))
    for section, listed in (
        ("squeeze-excite", others.squeeze_excite),
        ("launch overhead", others.overhead),
        ("peak memory", others.memory),
    ):
        sections[section] = [(name, lambda job=job: (job(), [])) for name, job in listed(machine)]
    sections["child layer"] = list(child_layer.jobs(machine))
    first = [name for name, _ in SHARES if name in sections]
    for name in [*first, *(name for name in sections if name not in first)]:
        yield name, sections[name]


def finish(machine: Machine, record: Record) -> None:
    """The sanitizer, hardware counters, targets, winners, and the tables last."""
    data = record.data
    record.put("sanitizer", _sanitizer(machine, record.left / 2))
    for tool, said in data["sanitizer"].items():
        if sanitizer.is_wrong(said):
            record.wrong(f"compute-sanitizer {tool}: {said}")
    if not machine.dry:
        record.put("gpu_afterwards", gpu_state())
    record.put("counters", {"not_done": "dry run"} if machine.dry else profile.counters(record.left))
    record.put("targets", targets.judge([] if machine.dry else data["rows"]))
    proposal = record.file.with_suffix(".tuned.json")
    proposal.write_text(json.dumps(winners.table(data["environment"], data["rows"]), indent=1) + "\n")
    record.put("complete", True)
    lines = [*report.lines(data), f"proposed winners: {proposal}"]
    record.file.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n", flush=True)


def _sanitizer(machine: Machine, seconds: float) -> dict[str, str]:
    _, runs, why = ways.cuda_kernels(machine)
    if machine.dry or not runs:
        return {"all": "not done: " + ("dry run" if machine.dry else why)}
    return sanitizer.run(seconds)


def _say(record: Record, line: str) -> None:
    print(f"[{time.monotonic() - record.started:5.0f} s] {line}", flush=True)
