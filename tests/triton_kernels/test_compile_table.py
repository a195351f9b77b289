"""The committed tables of all compiled kernels keep the rules, and a sample of them, compiled anew, agrees."""

import pytest

from benchmarks.compile_matrix import matrix, table
from benchmarks.compile_matrix.rules import (
    KNOWN_SPILLS,
    LOOP_MARGIN,
    LOOP_MARGIN_OTHER_VERSION,
    TENSOR_KIND,
    over_budget,
    violations,
)
from support.outside_interpreter import run

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


def test_there_is_a_table_for_the_oldest_and_the_newest_triton():
    assert {"3.6.0", "3.9.0"} <= set(TABLES)
