"""Machine code as text: its instructions, and its loops.

A loop is what compilers call a natural loop: a jump back to a block through which every path to the jump leads. A wait
that was moved to the end of the kernel jumps back too, but is no loop.
"""

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
_FUNCTION = re.compile(r"^\.text\.(\w+):$", re.MULTILINE)
_RESOURCES = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)")
# Waits until all wgmma that run are done.
_WAIT_FOR_ALL = re.compile(r"WARPGROUP\.DEPBAR\S* gsb0, 0x0\b")


@dataclass(frozen=True)
class Instruction:
    text: str

    @cached_property
    def predicated(self) -> bool:
        return self.text.startswith("@")

    @cached_property
    def name(self) -> str:
        """With its modifiers: "HGMMA.64x128x16.F32.BF16"."""
        return self.text.split()[1 if self.predicated else 0]

    @cached_property
    def opcode(self) -> str:
        """Without them: "HGMMA"."""
        return self.name.split(".")[0]

    @property
    def operands(self) -> str:
        return self.text.split(self.name, 1)[1]


@dataclass(frozen=True)
class Sass:
    """One kernel."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]  # of the instruction that follows

    @classmethod
    def parse(cls, text: str) -> "Sass":
        instructions: list[Instruction] = []
        labels = {}
        for line in text.splitlines():
            if found := _LABEL.match(line):
                labels[found[1]] = len(instructions)
            elif found := _INSTRUCTION.match(line):
                instructions.append(Instruction(found[1]))
        return cls(tuple(instructions), labels)

    def loops(self) -> list[frozenset[int]]:
        """The numbers of each loop's instructions, innermost loops first."""
        blocks = self._blocks()
        successors = {start: self._successors(end - 1) for start, end in blocks.items()}
        predecessors: dict[int, list[int]] = {start: [] for start in blocks}
        for start, ends in successors.items():
            for end in ends:
                predecessors[end].append(start)
        bodies: dict[int, set[int]] = {}
        for head in _reachable(0, successors):
            # Blocks to which every path leads through the head, if there is one.
            for block in _reachable(head, successors) - _reachable(0, successors, without=head):
                if head in successors[block]:
                    bodies.setdefault(head, {head}).update(_reachable(block, predecessors, without=head))
        loops = [frozenset(i for start in body for i in range(start, blocks[start])) for body in bodies.values()]
        return sorted(loops, key=lambda loop: (len(loop), min(loop)))

    def hot_loop(self, *opcodes: str) -> list[Instruction]:
        """Of the innermost loops with such instructions the one with most of them; empty where none has any."""
        holding = [loop for loop in self.loops() if any(self.instructions[i].opcode in opcodes for i in loop)]
        innermost = [loop for loop in holding if not any(other < loop for other in holding)]
        candidates = [[self.instructions[i] for i in sorted(loop)] for loop in innermost]
        return max(candidates, key=lambda loop: count(loop, *opcodes), default=[])

    def _blocks(self) -> dict[int, int]:
        """First instruction of each basic block -> the one behind its last."""
        after_jumps = (i + 1 for i, instruction in enumerate(self.instructions) if instruction.opcode in _JUMPS)
        count = len(self.instructions)
        starts = sorted({0, *self.labels.values(), *after_jumps} - {count})
        return dict(zip(starts, [*starts[1:], count], strict=True))

    def _successors(self, last: int) -> list[int]:
        """The blocks that may run after the block with this last instruction."""
        instruction = self.instructions[last]
        following = [last + 1] if last + 1 < len(self.instructions) else []
        if instruction.opcode in ("EXIT", "RET"):
            return following if instruction.predicated else []
        if instruction.opcode != "BRA":
            return following
        target = _TARGET.search(instruction.text)
        jump = [self.labels[target[1]]] if target and target[1] in self.labels else []
        before_target = instruction.operands.split("`")[0]
        return jump + following if instruction.predicated or "P" in before_target else jump


_JUMPS = ("BRA", "EXIT", "RET")


def _reachable(start: int, edges: dict[int, list[int]], without: int | None = None) -> set[int]:
    """The blocks that paths along the edges lead to from the start, itself included; no path passes one without."""
    seen: set[int] = set()
    open_ends = [start]
    while open_ends:
        block = open_ends.pop()
        if block not in seen and block != without:
            seen.add(block)
            open_ends += edges[block]
    return seen


class Code(NamedTuple):
    """Of one kernel."""

    sass: Sass
    registers: int  # of a thread
    stack: int  # bytes of a thread


def disassemble(cubin: bytes) -> dict[str, Code]:
    """Symbol of each kernel -> its code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        code = functions(nvidia_tool("nvdisasm", "-c", file.name))
        resources = _RESOURCES.findall(nvidia_tool("cuobjdump", "-res-usage", file.name))
    return {symbol: Code(code[symbol], int(registers), int(stack)) for symbol, registers, stack in resources}


def functions(disassembly: str) -> dict[str, Sass]:
    """By the symbol of each, what nvdisasm printed."""
    parts = _FUNCTION.split(disassembly)[1:]
    return {symbol: Sass.parse(text) for symbol, text in zip(parts[::2], parts[1::2], strict=True)}


def nvidia_tool(name: str, *arguments: str | Path, cwd: str | None = None) -> str:
    """What nvdisasm or cuobjdump prints, which come with Triton."""
    triton = importlib.util.find_spec("triton")
    if triton is None or triton.origin is None:
        raise RuntimeError(f"needs {name}, which comes with Triton: `pip install triton`")
    tool = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([tool, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def count(instructions: Iterable[Instruction], *opcodes: str) -> int:
    return sum(instruction.opcode in opcodes for instruction in instructions)


def waits_for_all_wgmma(instructions: Iterable[Instruction]) -> int:
    return sum(bool(_WAIT_FOR_ALL.search(instruction.text)) for instruction in instructions)
