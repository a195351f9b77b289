"""Where float32 is multiplied in TF32, one operand of every product is rounded; and only there is anything rounded."""

import json

import pytest

from support.outside_interpreter import run

# For each form whether something is rounded: in the kernel, before it, or by the TMA.
ROUNDED = """
import json
from dataclasses import replace
import torch
from benchmarks.compile_matrix.cells import Cell
from benchmarks.compile_matrix.compiling import Request
from benchmarks.compile_matrix.forms import launches
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.problem import Problem

TILE = Config("P", 64, 64, 32, num_warps=4, num_stages=2)
S, X = replace(TILE, form="S", box=(1, 8, 8)), replace(TILE, form="X", box=(64, 1, 1))
CALLS = [
    ("P", "gfb", TILE), ("P", "fb", TILE), ("df", "gsd", TILE), ("dx", "gfd", TILE), ("dx ds", "gfd", TILE),
    ("dx ds", "d", TILE), ("dW", "g", TILE), ("dW", "gf", TILE), ("dW df dg", "gfd", TILE),
    ("S", "gfb", S), ("S", "fb", S), ("X", "gfb", X), ("X", "fb", X),
]

def rounded(form, flags, tile, dtype, exact):
    problem = Problem(4, 64, 64, 8, 8, dtype=dtype, has_g="g" in flags, exact=exact)
    first, *others = launches(Cell(form, problem, flags, 90, tile))
    kernel = others[0] if first.kernel.__name__ == "round_kernel" else first
    return {
        "before": kernel is not first,
        "inside": "cvt.rna.tf32.f32" in Request.of(kernel, 90).front_end(),
        "by the TMA": getattr(kernel.args["x"], "round_f32_to_tf32", False),
    }

kinds = {"tf32": (torch.float32, False), "ieee": (torch.float32, True), "bf16": (torch.bfloat16, False)}
print(json.dumps({
    kind: {f"{form} {flags}": rounded(form, flags, tile, *how) for form, flags, tile in CALLS}
    for kind, how in kinds.items()
}))
"""


@pytest.fixture(scope="module")
def rounded():
    done = run("-c", ROUNDED)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_operand_of_every_product_in_tf32_is_rounded(rounded):
    assert [call for call, where in rounded["tf32"].items() if not any(where.values())] == []


@pytest.mark.parametrize("kind", ["ieee", "bf16"])
def test_nothing_else_is_rounded(rounded, kind):
    assert [call for call, where in rounded[kind].items() if any(where.values())] == []
