"""What a kernel's machine code says about its cost: a row of the table."""

from collections.abc import Iterable
from typing import Any

from benchmarks.compile_matrix.sass import Instruction, Sass, count, waits_for_all_wgmma

from .library import Kernel

Row = dict[str, Any]

_MMA = ("HMMA", "HGMMA")
_FMA = ("FFMA", "FFMA2")
# Registers of a multiprocessor, on every architecture since sm_80; a warp takes them by 256, and warps come by four.
_REGISTERS, _REGISTERS_AT_ONCE, _WARPS_AT_ONCE = 65536, 256, 4
_INSTRUCTION_BYTES = 16


def rows(kernels: Iterable[Kernel]) -> list[Row]:
    """By name and architecture. A template that two files instantiate alike is one kernel."""
    found = {tuple(row.values()): row for row in map(_row, kernels)}
    return sorted(found.values(), key=lambda row: (row["kernel"], float(row["arch"].rstrip("af"))))


def _row(kernel: Kernel) -> Row:
    sass, registers, stack = kernel.code
    code = sass.instructions
    products = _MMA if count(code, *_MMA) else _FMA
    loop = sass.hot_loop(*products)
    return {
        "kernel": kernel.name,
        "arch": kernel.arch,
        "registers": registers,
        "stack": stack,
        "spills": count(code, "STL", "LDL"),
        "threads": kernel.threads,
        "planned_blocks": kernel.planned_blocks,
        "blocks": blocks(registers, kernel.threads),
        "code": len(code) * _INSTRUCTION_BYTES,
        "mma": count(code, *_MMA),
        "cp_async": count(code, "LDGSTS"),
        "loop": len(loop),
        "loop_products": count(loop, *products),
        "loop_ldmatrix": count(loop, "LDSM"),
        "loop_waits": waits_for_all_wgmma(loop),
        "step_loads": count(_loop_over_steps(sass), "LDG"),
    }


def _loop_over_steps(sass: Sass) -> list[Instruction]:
    """The innermost loop that both copies ahead and multiplies on the tensor cores; empty where there is none."""
    loops = ([sass.instructions[i] for i in sorted(loop)] for loop in sass.loops())
    return next((loop for loop in loops if count(loop, *_MMA) and count(loop, "LDGSTS")), [])


def blocks(registers: int, threads: int) -> int:
    """How many blocks of so many threads a multiprocessor has registers for; 0 where the threads are not known."""
    if threads == 0:
        return 0
    of_warp = -(-registers * 32 // _REGISTERS_AT_ONCE) * _REGISTERS_AT_ONCE
    warps = _REGISTERS // of_warp // _WARPS_AT_ONCE * _WARPS_AT_ONCE
    return warps // -(-threads // 32)
