"""What a kernel's machine code says about its cost."""

import re
from dataclasses import dataclass

from .compiling import Binary
from .sass import count, disassemble, waits_for_all_wgmma

# How each kind of tensor-core instruction is called in machine code.
TENSOR_OPCODES = {
    "wgmma": ("HGMMA", "QGMMA", "IGMMA"),
    "tcgen05": ("UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA"),
    "mma.sync": ("HMMA", "QMMA", "IMMA"),
}
_TMA = ("UTMALDG", "UTMASTG", "UTMAREDG", "UBLKCP")
_SPILLS = ("LDL", "STL")
_PRODUCTS = ("HMUL2", "HFMA2", "FMUL", "FFMA", "FMUL2", "FFMA2")
_OPERAND = re.compile(r"tensor<[\dx]+x(\w+)>")


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


def figures(binary: Binary) -> Figures:
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
    )


def _dots(ttir: str) -> str:
    operands = ((line, _OPERAND.findall(line)[0]) for line in ttir.splitlines() if "= tt.dot " in line)
    return "+".join(sorted({"tf32" if kind == "f32" and "= tf32" in line else kind for line, kind in operands}))
