"""The process a measurement runs in: allocator, threads, and what to record about both."""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# glibc's allocator keeps what it is given. Otherwise tensors of a few MB are mapped and unmapped at every call, and the
# page faults drown what is measured (static F.conv2d itself then varies by a factor of two).
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30)}


def environment(allocator: Mapping[str, str]) -> dict[str, str]:
    """os.environ with the allocator's settings. Python's path has this repository behind PYTHONPATH, not before it,
    so that PYTHONPATH=/another/checkout measures the package in that checkout."""
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if str(ROOT) not in path:
        path.append(str(ROOT))
    return {**os.environ, **allocator, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


def restart_with(allocator: Mapping[str, str]) -> None:
    """glibc reads its settings at start, so a process without them is replaced by the same one with them."""
    if any(os.environ.get(name) != value for name, value in allocator.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(allocator))


def commit() -> str:
    """The commit of the measured package's checkout, marked where files differ from it; "unknown" outside git."""
    from kerneldna_ops import env

    return env.commit() or "unknown"


def description(device: str = "cpu") -> dict[str, str | int]:
    """What a reader needs to judge a figure: machine, threads, versions, commit, allocator."""
    import torch

    import kerneldna_ops
    from kerneldna_ops import env

    return {
        "device": device,
        **(gpu() if device == "cuda" else {}),
        "cpu": env.processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "build": torch.ops.kerneldna._build_info(),
        "commit": commit(),
        "package": str(Path(kerneldna_ops.__file__).parent),
        "allocator": "keeps its memory" if os.environ.get("MALLOC_MMAP_MAX_") == "0" else "default",
    }


def write_results(
    folder: Path | None,
    name: str,
    rows: Sequence[dict],
    table: Callable[[Sequence[dict], dict[str, str | int]], str],
    device: str = "cpu",
) -> None:
    """The rows as <name>.json and their table as <name>.md, both with the machine, in a folder if there is one."""
    if folder is None:
        return
    machine = {key: value for key, value in description(device).items() if key != "package"}
    (folder / f"{name}.md").write_text(table(rows, machine))
    (folder / f"{name}.json").write_text(json.dumps({"machine_info": machine, "rows": rows}, indent=1) + "\n")


def made_by(command: str, machine: Mapping[str, str | int]) -> str:
    """The last line of a table."""
    return f"\nMade by `{command}`: {', '.join(f'{name} {value}' for name, value in machine.items())}.\n"


def gpu() -> dict[str, str | int]:
    import torch

    from kerneldna_ops import env

    found = env.environment()
    return {
        "gpu": found["devices"]["cuda:0"],
        "driver": found["driver"] or "unknown",
        "cuda": torch.version.cuda or "none",
        "cudnn": torch.backends.cudnn.version() or 0,
        "triton": found["versions"]["triton"] or "none",
    }
