"""The tool that compiles kernels for GPUs that need not be there: it finds loops, and what breaks a rule."""

import json

import pytest

from benchmarks.compile_matrix.rules import over_budget, violations
from benchmarks.compile_matrix.sass import Sass
from support.outside_interpreter import run

# A kernel that keeps the rules.
GOOD = {
    "kernel": "P",
    "arch": 90,
    "spills": 0,
    "stack": 0,
    "shared": 1024,
    "dots": "bf16",
    "tensor": "wgmma",
    "serialised": False,
    "loop": 100,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spills": 2}, "2 instructions spill"),
        ({"stack": 8}, "8 bytes of stack"),
        ({"shared": 227 * 1024 + 1}, "sm_90 has 232448"),
        ({"arch": 89, "tensor": "mma.sync", "shared": 100 * 1024}, "sm_89 has 101376"),
        ({"tensor": ""}, "missing; expected wgmma"),
        ({"tensor": "mma.sync"}, "mma.sync; expected wgmma"),
        ({"serialised": True}, "waits for each product"),
        ({"arch": 100}, "expected tcgen05"),
        ({"arch": 120}, "expected mma.sync"),
    ],
)
def test_rules(change, words):
    assert not list(violations(GOOD))
    (sentence,) = violations({**GOOD, **change})
    assert words in sentence


def test_loop_budget():
    assert over_budget({**GOOD, "loop": 105}, GOOD, 1.05) is None
    assert (
        over_budget({**GOOD, "loop": 106}, GOOD, 1.05) == "P: 106 instructions in the loop; 105 allowed (100 * 1.05)."
    )


def test_few_rows_go_to_mma_sync():
    few = {**GOOD, "kernel": "squeeze-excite sm_90: gate_kernel (2)"}
    assert not list(violations({**few, "tensor": "mma.sync"}))
    assert list(violations({**few, "tensor": ""}))


def test_float32_without_tf32_needs_no_tensor_cores():
    assert not list(violations({**GOOD, "dots": "f32", "tensor": ""}))
    assert list(violations({**GOOD, "dots": "tf32", "tensor": ""}))


PLANTED = """
import json
from dataclasses import asdict, replace
from benchmarks.compile_matrix.cells import Cell
from benchmarks.compile_matrix.jobs import NotCompiled, compile_job, jobs
from benchmarks.compile_matrix.matrix import MAIN
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.conv_forward import conv_kernel

def compiled(**tile):
    (job,) = jobs([Cell("P", MAIN, "gfb", 90, Config(**tile))])
    return compile_job(job)

spilled = compiled(block_m=256, block_n=256, num_warps=4, num_stages=2)
try:
    compiled(block_k=8)
except NotCompiled as error:
    message = str(error)
conv_kernel._unsafe_update_src(conv_kernel.src.replace("tl.assume(first < last)", "pass"))
print(json.dumps([spilled, message, compiled()]))
"""


def test_planted_faults_are_found():
    """A tile that does not fit into the registers, one that is too small for tl.dot, and a loop that may be empty."""
    done = run("-c", PLANTED)
    assert done.returncode == 0, done.stderr
    spilled, error, serialised = json.loads(done.stdout)
    assert any("spill registers" in sentence for sentence in violations(spilled))
    assert any("waits for each product" in sentence for sentence in violations(serialised))
    assert error.startswith(
        "P 256@14 3x3 bf16 gfb 128x128x8 w8 s3 sm_90: conv_kernel does not compile: CompilationError"
    )


def code(*lines: str) -> Sass:
    """As nvdisasm prints it: a line that ends in a colon is a label."""
    return Sass.parse(
        "\n".join(line if line.endswith(":") else f"        /*{i:04x}*/  {line} ;" for i, line in enumerate(lines))
    )


def test_loops_of_machine_code():
    """An outer loop around an inner one, whose wait stands behind the end of the kernel and jumps back into it."""
    sass = code(
        "MOV R1, c[0x0][0x28]",
        ".L_x_0:",
        "IADD3 R2, R2, 0x1, RZ",
        ".L_x_1:",
        "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R3], R4",
        "@!P0 BRA `(.L_x_3)",
        ".L_x_2:",
        "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24",
        "@P1 BRA `(.L_x_1)",
        "BRA.U UP0, `(.L_x_0)",
        "EXIT",
        ".L_x_3:",
        "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R3], R4",
        "@!P0 BRA `(.L_x_3)",
        "BRA `(.L_x_2)",
        ".L_x_4:",
        "BRA `(.L_x_4)",
    )
    loops = [sorted(sass.instructions[i].opcode for i in loop) for loop in sass.loops()]
    wait, inner, outer = loops
    assert wait == ["BRA", "SYNCS"]
    assert inner == ["BRA", "BRA", "BRA", "BRA", "HGMMA", "SYNCS", "SYNCS"]
    assert len(outer) == len(inner) + 2
