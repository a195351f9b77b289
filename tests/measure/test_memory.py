"""Peak memory as the operating system sees it."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kerneldna_ops.measure import memory
from kerneldna_ops.measure.memory import highest_during, in_a_process

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


def peak_of(mebibytes, threads):
    assert torch.get_num_threads() == threads
    return highest_during(lambda: torch.ones(mebibytes, 2**18))


def test_a_process_of_its_own_has_nothing_of_this_one(threads):
    """It computes with as many threads, and says what its function found."""
    threads(2)
    kept = torch.ones(MIB64)
    assert 60 * 2**20 < in_a_process(peak_of, 64, 2) < 80 * 2**20
    assert in_a_process(peak_of, 1, 2) < kept.nbytes
    with pytest.raises(subprocess.CalledProcessError):
        in_a_process(peak_of, 1, 3)


def test_where_there_is_no_proc_there_is_no_figure(monkeypatch):
    monkeypatch.setattr(memory, "RESET", Path("/nowhere"))
    assert in_a_process(peak_of, 1, 1) is None
