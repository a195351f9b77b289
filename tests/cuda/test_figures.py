"""The tool that reads the figures of CUDA kernels off their machine code: it finds loops, and what breaks a rule."""

import dataclasses

import pytest

from benchmarks.compile_matrix.sass import Code, Sass, functions
from benchmarks.cuda_figures import rules
from benchmarks.cuda_figures.figures import blocks, rows
from benchmarks.cuda_figures.library import Kernel, launch_bounds, short_name

# A kernel that keeps the rules.
GOOD = {
    "kernel": "conv_gemm_kernel<GemmTraits<__half, 128, 128>>",
    "arch": "80",
    "registers": 128,
    "stack": 0,
    "spills": 0,
    "threads": 256,
    "planned_blocks": 2,
    "blocks": 2,
    "mma": 64,
    "cp_async": 8,
    "loop_products": 64,
    "loop_waits": 0,
    "step_loads": 0,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stack": 8}, "8 bytes; 0 allowed"),
        ({"spills": 3}, "3 loads and stores"),
        ({"threads": 0}, "no __launch_bounds__"),
        ({"blocks": 1}, "registers for 1 blocks of 256 threads; planned are 2"),
        ({"mma": 0}, "no tensor-core instruction"),
        ({"loop_products": 0}, "no tensor-core instruction"),
        ({"cp_async": 0}, "no cp.async"),
        ({"loop_waits": 4}, "4 times in the loop all wgmma are waited for"),
        ({"step_loads": 2}, "a step waits for 2 loads from global memory"),
    ],
)
def test_rules(change, words):
    assert not list(rules.violations(GOOD))
    (sentence,) = rules.violations({**GOOD, **change})
    assert words in sentence


def test_wgmma_is_for_one_architecture():
    empty = {**GOOD, "kernel": "conv_gemm_kernel<WgmmaMath<__half>>", "mma": 0, "cp_async": 0, "loop_products": 0}
    assert not list(rules.violations(empty))
    assert list(rules.violations({**empty, "arch": "90a"}))


def test_a_kernel_that_one_architecture_lacks_is_found():
    both = [GOOD, {**GOOD, "arch": "90a"}]
    assert not list(rules.missing(both))
    (sentence,) = rules.missing([*both, {**GOOD, "kernel": "other"}])
    assert sentence.startswith("other is there for 80;")


@pytest.mark.parametrize(
    ("registers", "threads", "expected"),
    [(128, 256, 2), (129, 256, 1), (255, 128, 2), (32, 1024, 2), (168, 384, 1), (144, 224, 1), (64, 0, 0)],
)
def test_blocks_that_registers_allow(registers, threads, expected):
    assert blocks(registers, threads) == expected


def test_names_for_people():
    assert short_name("void kerneldna::cuda::gemm<kerneldna::cuda::Traits<__half, 64>, true>(P, int)") == (
        "gemm<Traits<__half, 64>, true>"
    )
    assert short_name("void a::(anonymous namespace)::gate<(a::Kind)1>(void (*)(int), P)") == "gate<(Kind)1>"
    assert short_name("kernel(int)") == "kernel"


def test_launch_bounds_are_read_from_ptx():
    ptx = """
.visible .entry both(.param .u64 a)
.maxntid 256
.minnctapersm 2
{ ret; }
.visible .entry neither(.param .u64 a)
{ ret; }
.visible .entry threads()
.maxntid 128, 1, 1
{ ret; }"""
    assert launch_bounds(ptx) == {"both": (256, 2), "neither": (0, 0), "threads": (128, 0)}


DISASSEMBLY = """
	.section	.text.first,"ax",@progbits
.text.first:
        /*0000*/                   EXIT ;
	.section	.text.second,"ax",@progbits
.text.second:
.L_x_0:
        /*0000*/                   HMMA.16816.F32 R4, R8, R10, R4 ;
        /*0010*/                   LDL R1, [R2] ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
        /*0030*/                   EXIT ;
"""


def test_each_function_of_a_disassembly_is_found():
    code = functions(DISASSEMBLY)
    assert [len(code[symbol].instructions) for symbol in ("first", "second")] == [1, 4]
    assert [i.opcode for i in code["second"].hot_loop("HMMA")] == ["HMMA", "LDL", "BRA"]
    assert code["first"].hot_loop("HMMA") == []


def test_a_kernel_that_two_files_hold_is_one_row():
    code = Code(functions(DISASSEMBLY)["second"], 32, 0)
    kernel = Kernel("gemm<1>", "80", code, 128, 2)
    on_newer = dataclasses.replace(kernel, arch="100")
    other = dataclasses.replace(kernel, code=code._replace(registers=40))
    assert [row["arch"] for row in rows([on_newer, kernel, kernel])] == ["80", "100"]
    assert [row["registers"] for row in rows([kernel, other])] == [32, 40]
    (row,) = rows([kernel])
    assert (row["mma"], row["loop"], row["loop_products"], row["spills"], row["blocks"]) == (1, 3, 1, 1, 16)


def test_loads_of_a_step_are_found():
    """Beside what was copied ahead, in the loop around the products."""
    code = """
.L_x_0:
        /*0000*/                   LDGSTS.E.BYPASS.128 [R20], [R2.64] ;
        /*0010*/                   LDG.E.U16 R5, [R2.64] ;
.L_x_1:
        /*0020*/                   HMMA.16816.F32 R4, R8, R10, R4 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/               @P1 BRA `(.L_x_0) ;
        /*0050*/                   LDG.E.128 R8, [R2.64] ;
        /*0060*/                   EXIT ;
"""
    (row,) = rows([Kernel("gemm<__half>", "80", Code(Sass.parse(code), 128, 0), 256, 2)])
    assert (row["loop"], row["step_loads"]) == (2, 1)


# The products of a loop as nvcc 13.0 compiles them for sm_90a: waiting for each, as where ptxas prints C7515, and going
# on while one runs.
SERIALISED = """
.L_x_0:
        /*0000*/                   LDSM.16.M88.4 R88, [R96+0x800] ;
        /*0010*/                   WARPGROUP.ARRIVE ;
        /*0020*/                   HGMMA.64x128x16.F32.BF16 R24, R88, gdesc[UR20], R24, gsb0 ;
        /*0030*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0040*/                   LDSM.16.M88.4 R88, [R96+0x820] ;
        /*0050*/                   WARPGROUP.ARRIVE ;
        /*0060*/                   HGMMA.64x128x16.F32.BF16 R24, R88, gdesc[UR20], R24, gsb0 ;
        /*0070*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0080*/              @!P1 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
"""
OVERLAPPED = """
.L_x_0:
        /*0000*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0010*/                   LDSM.16.M88.4 R88, [R96+0x800] ;
        /*0020*/                   WARPGROUP.ARRIVE ;
        /*0030*/                   HGMMA.64x128x16.F32.BF16 R24, R88, gdesc[UR20], R24, gsb0 ;
        /*0040*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0050*/                   LDSM.16.M88.4 R92, [R96+0x820] ;
        /*0060*/                   WARPGROUP.ARRIVE ;
        /*0070*/                   HGMMA.64x128x16.F32.BF16 R24, R92, gdesc[UR20], R24, gsb0 ;
        /*0080*/              @!P1 BRA `(.L_x_0) ;
        /*0090*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*00a0*/                   EXIT ;
"""


@pytest.mark.parametrize(("code", "waits"), [(SERIALISED, 2), (OVERLAPPED, 0)])
def test_serialised_wgmma_are_found(code, waits):
    (row,) = rows([Kernel("wgmma<__half>", "90a", Code(Sass.parse(code), 128, 0), 256, 2)])
    assert (row["mma"], row["loop_products"], row["loop_waits"]) == (2, 2, waits)
    assert len(list(rules.violations(row))) == (waits > 0)
