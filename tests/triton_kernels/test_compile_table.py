"""The committed tables of all compiled kernels keep the rules, and a sample of them, compiled anew, agrees."""

import pytest
from outside_interpreter import run

from benchmarks.compile_matrix import matrix, table
from benchmarks.compile_matrix.markdown import markdown
from benchmarks.compile_matrix.rules import (
    KNOWN_SPILLS,
    LOOP_MARGIN,
    LOOP_MARGIN_OTHER_VERSION,
    TENSOR_KIND,
    over_budget,
    violations,
)
from kerneldna_ops.triton_kernels.cost_model import device_of, loop_instructions

SAMPLE = 16
TABLES = table.tables()


@pytest.fixture(scope="module")
def sample():
    done = run("-m", "benchmarks.compile_matrix", "--sample", str(SAMPLE))
    assert done.stdout, done.stderr
    return table.parse(done.stdout)


def test_a_sample_compiles_and_keeps_the_rules(sample):
    version, rows = sample
    assert len(rows) == SAMPLE
    assert [sentence for row in rows for sentence in violations(row, version)] == []


def test_no_loop_of_the_sample_is_longer_than_the_table_allows(sample):
    version, rows = sample
    committed = TABLES.get(version)
    margin = LOOP_MARGIN if committed else LOOP_MARGIN_OTHER_VERSION
    budgets = {row["kernel"]: row for row in committed or TABLES[max(TABLES)]}
    missing = [row["kernel"] for row in rows if row["kernel"] not in budgets]
    assert not missing, "not in the committed table, which `make gpu-compile` rebuilds"
    assert [sentence for row in rows if (sentence := over_budget(row, budgets[row["kernel"]], margin))] == []


@pytest.mark.parametrize("version", TABLES)
def test_the_committed_table_keeps_the_rules(version):
    rows = TABLES[version]
    assert [sentence for row in rows for sentence in violations(row, version)] == []
    assert len({row["kernel"] for row in rows}) == len(rows)
    found = {(row["arch"], row["dots"], row["tensor"]) for row in rows}
    assert {(arch, "bf16", TENSOR_KIND[arch]) for arch in matrix.ARCHITECTURES} <= found
    assert {(90, dots, "wgmma") for dots in ("f16", "tf32")} <= found


@pytest.mark.parametrize("version", TABLES)
def test_what_is_known_to_spill_still_does(version):
    spilling = {row["kernel"] for row in TABLES[version] if row["spills"]}
    assert spilling == set(KNOWN_SPILLS.get(version, {}))


@pytest.mark.parametrize("version", TABLES)
def test_the_table_for_people_is_that_of_the_rows(version):
    assert (table.FOLDER / f"{version}.md").read_text() == markdown(version, TABLES[version])


def test_there_is_a_table_for_the_oldest_and_the_newest_triton():
    assert {"3.6.0", "3.9.0"} <= set(TABLES)


def compiled_loops():
    """(problem, config, architecture, instructions) of all forward kernels with tensor cores in the newest table."""
    loops = {row["kernel"]: row["loop"] for row in TABLES[max(TABLES)] if row["tensor"]}
    for cell in matrix.cells():
        for kernel in ("conv_kernel", "conv_tma_kernel"):
            loop = loops.get(f"{cell.name}: {kernel}")
            fills_blocks = cell.problem.taps > 1 and cell.problem.in_channels % 64 == 0
            if loop is not None and cell.form in ("P", "S", "M", "X") and fills_blocks:
                yield cell.problem, cell.config, cell.arch, loop


def test_loops_are_as_long_as_those_of_compiled_kernels():
    """Within a third each, and right on average, where there are taps and the channels fill the blocks."""
    ratios = []
    for problem, config, arch, loop in compiled_loops():
        ratios.append(loop_instructions(problem, config, device_of("", arch, 1)) / loop)
        assert 0.67 < ratios[-1] < 1.5, (problem, config, arch, loop)
    assert len(ratios) > 30
    assert 0.9 < sum(ratios) / len(ratios) < 1.1
