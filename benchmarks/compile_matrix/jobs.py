"""From cells to rows of the table: which launches are compiled, and compiling them in several processes."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
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
            identity = Request.of(launch, cell.arch).identity
            found.setdefault(identity, Job(cell, number, launch.kernel.__name__))
    return list(found.values())


def compile_job(job: Job) -> Row:
    cell = job.cell
    try:
        binary = Request.of(launches(cell)[job.number], cell.arch).compile()
    except Exception as error:
        # Triton's own errors do not survive the way between two processes.
        raise NotCompiled(f"{job.name} does not compile: {type(error).__name__}: {error}") from None
    found = dataclasses.asdict(figures(binary, cell.arch))
    return {"kernel": job.name, "arch": cell.arch, **found}


def compile_all(jobs: list[Job], processes: int) -> Iterator[Row]:
    """In the order of jobs. Raises NotCompiled."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compile_job, jobs, chunksize=4)


def with_extra_products(rows: Iterable[Row], jobs: list[Job]) -> list[Row]:
    """Adds the products in the loop that the scale on the reduction axis costs: those beyond the same kernel's without
    it; None where it has none, or where the one without was not compiled."""
    paired = list(zip(jobs, rows, strict=True))
    products = {job.name: row["products"] for job, row in paired}

    def extra(job: Job, row: Row) -> int | None:
        cell = job.cell
        unscaled = dataclasses.replace(cell, flags=cell.flags.translate(_NO_SCALE))
        before = products.get(dataclasses.replace(job, cell=unscaled).name)
        return None if before is None or unscaled == cell else row["products"] - before

    return [{**row, "extra_products": extra(job, row)} for job, row in paired]


_NO_SCALE = str.maketrans("", "", "gs")


def sample(jobs: list[Job], count: int) -> list[Job]:
    """Spread over all of them, and always the same."""
    return sorted(jobs, key=lambda job: hashlib.sha256(job.name.encode()).digest())[:count]
