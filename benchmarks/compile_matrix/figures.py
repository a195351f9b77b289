"""What a kernel's machine code says about its cost."""

import re
from dataclasses import dataclass

from .compiling import Binary
from .sass import Instruction, count, disassemble, waits_for_all_wgmma

# How each kind of tensor-core instruction is called in machine code.
TENSOR_OPCODES = {
    "wgmma": ("HGMMA", "QGMMA", "IGMMA"),
    "tcgen05": ("UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA"),
    "mma.sync": ("HMMA", "QMMA", "IMMA"),
}
# Products of 16-bit operands with float32 sums: operations per clock of one multiprocessor, 2 per multiply-accumulate;
# TF32 has half. From NVIDIA's architecture papers: A100 312 TFLOP/s / (108 * 1.41 GHz), A10 125 / (72 * 1.695),
# L4 121 / (58 * 2.04), H100 989 / (132 * 1.83), B200 2250 / (148 * 1.85), RTX PRO 6000 504 / (188 * 2.6), rounded.
# GeForce cards of sm_86, 89 and 120 have half of what stands here.
TENSOR_FLOP_PER_CLOCK = {80: 2048, 86: 1024, 89: 1024, 90: 4096, 100: 8192, 120: 1024}
# A multiprocessor starts one instruction of one warp on each of its four parts per clock.
SCHEDULERS = 4

_TMA = ("UTMALDG", "UTMASTG", "UTMAREDG", "UBLKCP")
_SPILLS = ("LDL", "STL")
_PRODUCTS = ("HMUL2", "HFMA2", "FMUL", "FFMA", "FMUL2", "FFMA2")
_WGMMA = re.compile(r"GMMA\.(?P<m>64)x(?P<n>\d+)x(?P<k>\d+)\.")
_MMA_SYNC = re.compile(r"MMA\.(?P<m>16)(?P<n>8)(?P<k>\d+)\.")
_OPERAND = re.compile(r"tensor<[\dx]+x(\w+)>")
# The machine instruction of tcgen05 does not say its sizes; the type of its float32 sums in Triton's own code does.
_TCGEN05 = re.compile(r"tc_gen5_mma .*memdesc<(\d+)x(\d+)xf32,")


@dataclass(frozen=True)
class Figures:
    """Counts are of machine instructions as they stand in the code. The loop is the innermost one with tensor-core
    instructions, or, in a kernel that has none, the innermost one with the most products."""

    registers: int
    stack: int  # bytes
    spills: int  # loads and stores of thread-local memory
    shared: int  # bytes
    dots: str  # the operands of the kernel's tl.dot: "bf16", "f16", "tf32" or "f32", "" for none
    tensor: str  # the kind of tensor-core instruction, "" for none
    tensor_count: int  # in the loop
    tma: int
    loop: int
    serialised: bool  # waits for each wgmma of the loop before it starts the next
    issue: float | None  # issue slots that the loop takes of those that pass while the tensor cores run; None: no loop


def figures(binary: Binary, arch: int) -> Figures:
    ((sass, registers, stack),) = disassemble(binary.cubin).values()
    code = sass.instructions
    tensor = next((kind for kind, opcodes in TENSOR_OPCODES.items() if count(code, *opcodes)), "")
    opcodes = TENSOR_OPCODES.get(tensor, _PRODUCTS)
    loop = sass.hot_loop(*opcodes)
    return Figures(
        registers=registers,
        stack=stack,
        spills=count(code, *_SPILLS),
        shared=binary.shared,
        dots=_dots(binary.ttir),
        tensor=tensor,
        tensor_count=count(loop, *opcodes) if tensor else 0,
        tma=count(code, *_TMA),
        loop=len(loop),
        # Once in the loop such a wait is the step's; the compiler puts in others where it gives up.
        serialised=waits_for_all_wgmma(loop) > 1,
        issue=_issue(loop, tensor, binary, arch) if tensor and loop else None,
    )


def _dots(ttir: str) -> str:
    operands = ((line, _OPERAND.findall(line)[0]) for line in ttir.splitlines() if "= tt.dot " in line)
    return "+".join(sorted({"tf32" if kind == "f32" and "= tf32" in line else kind for line, kind in operands}))


def _issue(loop: list[Instruction], tensor: str, binary: Binary, arch: int) -> float:
    flop = sum(_flop(i, tensor, binary) for i in loop if i.opcode in TENSOR_OPCODES[tensor])
    return round(len(loop) * binary.num_warps / SCHEDULERS * TENSOR_FLOP_PER_CLOCK[arch] / flop, 3)


def _flop(instruction: Instruction, tensor: str, binary: Binary) -> int:
    """Of one instruction, executed by all warps of the program; TF32 counts double, for it runs at half the rate."""
    if tensor == "tcgen05":
        # One thread starts it for all: at most 128 x 256, and 32 bytes of the reduction axis, 16 operands of 16 bits.
        m, n = max((int(m), int(n)) for m, n in _TCGEN05.findall(binary.ttgir))
        return 2 * min(m, 128) * min(n, 256) * 16
    shape = (_WGMMA if tensor == "wgmma" else _MMA_SYNC).search(instruction.name)
    assert shape is not None, f"a tensor-core instruction of unknown shape: {instruction.name}"
    # Four warps execute a wgmma together, each warp an mma.sync of its own.
    executions = binary.num_warps // 4 if tensor == "wgmma" else binary.num_warps
    operand_width = 2 if "TF32" in instruction.name else 1
    return 2 * int(shape["m"]) * int(shape["n"]) * int(shape["k"]) * operand_width * executions
