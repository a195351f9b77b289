"""From cells to rows of the table: which launches are compiled, and compiling them in several processes."""

import dataclasses
import hashlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .cells import Cell
from .compiling import Request
from .figures import figures
from .forms import launches

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One launch of a cell."""

    cell: Cell
    number: int
    kernel: str
    source: str  # of the machine code and its figures: equal where they cannot differ, for one version of Triton

    @property
    def name(self) -> str:
        """Unlike that of any other row."""
        return f"{self.cell.name}: {self.kernel}" + f" ({self.number + 1})" * (self.number > 0)


class NotCompiled(Exception):
    """Says which kernel did not compile, and why."""


def jobs(cells: Iterable[Cell]) -> list[Job]:
    """The launches of these cells; of those that run the same machine code the first."""
    found: dict[str, Job] = {}
    for cell in cells:
        for number, launch in enumerate(launches(cell)):
            source = _digest(Request.of(launch, cell.arch).identity, _TOOL)
            found.setdefault(source, Job(cell, number, launch.kernel.__name__, source))
    return list(found.values())


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


# What reads the figures off the machine code.
_TOOL = _digest(*(Path(__file__).with_name(name).read_text() for name in ("compiling.py", "figures.py", "sass.py")))


def compile_job(job: Job) -> Row:
    cell = job.cell
    try:
        binary = Request.of(launches(cell)[job.number], cell.arch).compile()
    except Exception as error:
        # Triton's own errors do not survive the way between two processes.
        raise NotCompiled(f"{job.name} does not compile: {type(error).__name__}: {error}") from None
    found = dataclasses.asdict(figures(binary, cell.arch))
    return {"kernel": job.name, "arch": cell.arch, **found, "source": job.source}


def compile_all(jobs: list[Job], processes: int, known: Iterable[Row]) -> list[Row]:
    """The row of each job; those that are known are not compiled again. Raises NotCompiled."""
    rows = {row["source"]: row for row in known}
    missing = [job for job in jobs if job.source not in rows]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        rows.update((row["source"], row) for row in pool.map(compile_job, missing, chunksize=4))
    return [{**rows[job.source], "kernel": job.name} for job in jobs]


def sample(jobs: list[Job], count: int) -> list[Job]:
    """Spread over all of them, and always the same."""
    return sorted(jobs, key=lambda job: hashlib.sha256(job.name.encode()).digest())[:count]
