"""The list of mistakes fits the kernels as they are; whether the tests find them, `make mutants` tries."""

from pathlib import Path

import pytest
from mutations import MUTATIONS

TESTS = Path(__file__).parent
KERNELS = TESTS.parents[1] / "csrc/cuda/kernels"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation(mutation):
    assert (KERNELS / mutation.file).read_text().count(mutation.right) == 1
    assert mutation.wrong != mutation.right
    file, test = mutation.test.split("[")[0].split("::")
    assert f"\ndef {test}(" in (TESTS / file).read_text()
    assert not mutation.rebuilt or (KERNELS / mutation.rebuilt).exists()


def test_names_are_distinct():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
