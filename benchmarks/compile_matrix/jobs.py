"""From cells to rows of the table: which launches are compiled, and compiling them in several processes."""

import dataclasses
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from .cells import Cell
from .compiling import Request
from .figures import figures
from .forms import launches
from .table import Row


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
            found.setdefault(Request.of(launch, cell.arch).identity, Job(cell, number, launch.kernel.__name__))
    return list(found.values())


def compile_job(job: Job) -> Row:
    cell = job.cell
    try:
        binary = Request.of(launches(cell)[job.number], cell.arch).compile()
    except Exception as error:
        # Triton's own errors do not survive the way between two processes.
        raise NotCompiled(f"{job.name} does not compile: {type(error).__name__}: {error}") from None
    return {"kernel": job.name, "arch": cell.arch, **dataclasses.asdict(figures(binary))}


def compile_all(jobs: list[Job], processes: int) -> list[Row]:
    """The row of each job. Raises NotCompiled."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(compile_job, jobs, chunksize=4))
