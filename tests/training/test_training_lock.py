"""One training in a folder at a time."""

import errno
import fcntl
import os
import signal
import socket
import time

import pytest
from test_training_resume import train

from kerneldna_ops.training import lock
from kerneldna_ops.training.checkpoint import TrainingError


@pytest.fixture
def holder(tmp_path):
    """The number of a process that holds the folder until it is killed, and one of its own that loads its images."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        with lock.locked(tmp_path):
            worker = os.fork()
            if worker:
                os.write(writer, str(worker).encode())
            time.sleep(100)
            os._exit(0)
    worker = int(os.read(reader, 100))
    yield process
    os.kill(worker, signal.SIGKILL)


def test_a_second_training_is_told_of_the_first_and_goes_on_after_its_death(tmp_path, holder):
    path = tmp_path / lock.NAME
    before = path.read_bytes()
    with pytest.raises(TrainingError) as raised:
        train(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}: process {holder} on {socket.gethostname()} trains in it; wait until it has ended, or name another"
        " folder"
    )
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before
    os.kill(holder, signal.SIGKILL)  # its worker lives on
    os.waitpid(holder, 0)
    assert train(tmp_path).epochs == 3
    assert not path.exists()


def test_one_that_ends_between_opening_and_locking_is_noticed(tmp_path, monkeypatch):
    """Its file is gone then, and a lock on it would keep nobody out."""
    path = tmp_path / lock.NAME
    flock, calls = fcntl.flock, []

    def slow(descriptor, operation):
        if not calls:
            path.unlink()
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with lock.locked(tmp_path):
        assert len(calls) == 2
        with pytest.raises(TrainingError, match=f"process {os.getpid()} on "), lock.locked(tmp_path):
            pass
        assert path.exists()
    assert not path.exists()


def test_where_there_are_no_locks_it_says_so_and_trains(tmp_path, monkeypatch, capsys):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert train(tmp_path).epochs == 3
    assert capsys.readouterr().out == f"{tmp_path}: no locks on this file system, so start no second training in it.\n"
