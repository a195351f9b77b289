"""The kernels in a built op library, with their machine code."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compile_matrix.sass import Code, disassemble, nvidia_tool

_CUBIN = re.compile(r"\.sm_(\w+)\.cubin$")


@dataclass(frozen=True)
class Kernel:
    name: str  # "conv_gemm_kernel<__half, 128>"
    arch: str  # "90a"
    code: Code
    threads: int  # of a block, at most, from __launch_bounds__; 0 where the kernel has none
    planned_blocks: int  # of a multiprocessor, at least, from __launch_bounds__


def cuda_version(library: Path) -> str:
    """Of the nvcc that compiled it: "13.0"."""
    if (found := re.search(rb";cuda=([\d.]+);", library.read_bytes())) is None:
        raise RuntimeError(f"{library} was built without CUDA")
    return found[1].decode()


def kernels(library: Path) -> Iterator[Kernel]:
    """Of all architectures. Raises RuntimeError where there is no PTX: launch bounds stand nowhere else."""
    if not (bounds := launch_bounds(nvidia_tool("cuobjdump", "-ptx", library))):
        raise RuntimeError(f"{library} has no PTX of a kernel; one of TORCH_CUDA_ARCH_LIST must have +PTX")
    names = demangled(sorted(bounds))
    with tempfile.TemporaryDirectory() as folder:
        nvidia_tool("cuobjdump", "-xelf", "all", library.resolve(), cwd=folder)
        for cubin in sorted(Path(folder).iterdir()):
            found = _CUBIN.search(cubin.name)
            if found is None:
                raise RuntimeError(f"cuobjdump gave a file whose name says no architecture: {cubin.name}")
            for symbol, code in disassemble(cubin.read_bytes()).items():
                yield Kernel(names[symbol], found[1], code, *bounds[symbol])


def launch_bounds(ptx: str) -> dict[str, tuple[int, int]]:
    """Symbol of each kernel -> threads of a block, at most, and blocks of a multiprocessor, at least; 0 for neither."""
    bounds = {}
    for entry in re.split(r"\.entry ", ptx)[1:]:
        symbol, head = re.match(r"\w+", entry)[0], entry.split("{", 1)[0]
        threads = re.search(r"\.maxntid (\d+)", head)
        blocks = re.search(r"\.minnctapersm (\d+)", head)
        bounds[symbol] = int(threads[1]) if threads else 0, int(blocks[1]) if blocks else 0
    return bounds


def demangled(symbols: list[str]) -> dict[str, str]:
    """Symbol -> the kernel's name with its template arguments, without namespaces and parameters."""
    names = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {symbol: short_name(name) for symbol, name in zip(symbols, names, strict=True)}


def short_name(name: str) -> str:
    """Of "void kerneldna::cuda::kernel<__half, (kerneldna::cuda::Kind)1>(Params)": "kernel<__half, (Kind)1>"."""
    depth, end = 0, len(name)
    for end in range(len(name) - 1, -1, -1):
        depth += (name[end] == ")") - (name[end] == "(")
        if depth == 0:
            break
    without_parameters = name[:end] if name.endswith(")") else name
    return re.sub(r"(\w+|\(anonymous namespace\))::", "", without_parameters.removeprefix("void "))
