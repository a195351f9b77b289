"""The table on disk: cuda.json with a line for each kernel and architecture, and cuda.md for people."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerneldna_ops.measure import tables

Row = dict[str, Any]

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "benchmarks" / "results" / "compile"
JSON, MARKDOWN = _FOLDER / "cuda.json", _FOLDER / "cuda.md"

_COLUMNS = {
    "arch": "sm_",
    "registers": "registers",
    "threads": "threads",
    "blocks": "blocks",
    "planned_blocks": "planned",
    "code": "code KB",
    "mma": "mma",
    "cp_async": "cp.async",
    "loop": "loop",
    "loop_products": "products in it",
    "loop_ldmatrix": "ldmatrix in it",
}


# What looks like a comment in a string would go too, but no kernel has such a string.
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# What tests/cuda/host_execution compiles, and nvcc does not.
_HOST = re.compile(r"#ifdef KERNELDNA_HOST_EXECUTION\n.*?(?=#else|#endif)", re.DOTALL)


def code_of(source: str) -> str:
    """A source as nvcc compiles it, without its comments and white space."""
    return "".join(_HOST.sub("", _COMMENT.sub(" ", source)).split())


def sources_digest() -> str:
    """Of all that decides the machine code, but for the compiler and its flags."""
    folder = _ROOT / "csrc" / "cuda" / "kernels"
    files = sorted(path for path in folder.iterdir() if path.suffix in (".cu", ".cuh", ".h"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{code_of(path.read_text())}\0".encode())
    return digest.hexdigest()[:16]


def load() -> tuple[str, str, list[Row]]:
    """The version of nvcc, the digest of the sources that it compiled, and the rows."""
    table = json.loads(JSON.read_text())
    return table["cuda"], table["sources"], table["kernels"]


def dump(cuda: str, rows: list[Row]) -> str:
    head = json.dumps({"command": "make cuda-figures", "cuda": cuda, "sources": sources_digest()})
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{head[:-1]}, "kernels": [\n{lines}\n]}}\n'


def markdown(cuda: str, rows: list[Row]) -> str:
    return "\n".join(_lines(cuda, rows)) + "\n"


def _lines(cuda: str, rows: list[Row]) -> Iterator[str]:
    yield f"# CUDA kernels, compiled by nvcc {cuda}"
    yield ""
    yield (
        "Read off the machine code that `make cuda-figures` compiles; no GPU ran it. The JSON file beside this one has"
        " all kernels; here are those for bfloat16, on sm_80 and sm_90a."
    )
    yield ""
    yield "* threads: of a block, at most; blocks: of a multiprocessor, as many as registers allow; planned: at least,"
    yield "  both from `__launch_bounds__`; shared memory is all dynamic"
    yield "* mma, cp.async: instructions of each kind in the whole kernel"
    yield "* loop: instructions of the innermost loop with most products (mma, or fma in a kernel that has none), those"
    yield "  included that only some of its steps run. Of two such loops the shorter: with factors per sample, that of"
    yield "  warps whose rows are of several samples; where all are of one, it has 32-bit loads for some ldmatrix"
    yield ""
    shown = ([f"`{row['kernel']}`", *(_cell(name, row[name]) for name in _COLUMNS)] for row in filter(_is_shown, rows))
    yield tables.markdown(["kernel", *_COLUMNS.values()], shown)
    spilling = sum(bool(row["stack"] or row["spills"]) for row in rows)
    yield f"{spilling} of all {len(rows)} use thread-local memory."


def _is_shown(row: Row) -> bool:
    kernel, arch = row["kernel"], row["arch"]
    is_empty = "Wgmma" in kernel and arch != "90a"
    return arch in ("80", "90a") and "__nv_bfloat16" in kernel and not is_empty


def _cell(name: str, value: Any) -> str:
    return f"{value / 1024:.1f}" if name == "code" else str(value)
