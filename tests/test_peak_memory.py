"""Peak memory as the operating system sees it."""

import gc
import sys

import pytest
import torch

from kerneldna_ops._peak_memory import highest_during

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured on Linux only")

MIB64 = (16, 2**20)


def test_what_is_freed_before_the_end_counts_and_what_there_was_before_does_not():
    before = torch.ones(MIB64)
    highest = highest_during(lambda: (torch.ones(MIB64) + torch.ones(MIB64)).sum())
    assert 120 * 2**20 < highest < 250 * 2**20
    assert before[0, 0] == 1


def test_garbage_of_before_hides_nothing():
    gc.disable()
    try:
        cycle = [torch.ones(MIB64)]
        cycle.append(cycle)
        del cycle
        assert highest_during(lambda: (gc.collect(), torch.ones(MIB64))) > 60 * 2**20
    finally:
        gc.enable()
