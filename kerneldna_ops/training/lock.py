"""One training in a folder at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .checkpoint import ADVICE, TrainingError, writing

NAME = "training.lock"
# Some file systems of clusters know no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[int] = set()


def _let_go() -> None:
    """A forked process, one that loads images for example, would hold the lock on after the training was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if missing, for this training; the system lets go of it however the process ends.

    Raises:
        TrainingError: another training holds it, and which, or the folder cannot be written to.
    """
    path = folder / NAME
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path)
    _held.add(descriptor)
    try:
        yield
    finally:
        with suppress(OSError):  # before the lock goes: later it could be another's
            path.unlink()
        _held.discard(descriptor)
        os.close(descriptor)


def _take(path: Path) -> int:
    """The descriptor whose lock is that of the file which `path` is now, with this process's number in it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise TrainingError(
                    f"{path.parent}: {holder} trains in it; wait until it has ended, or {ADVICE}"
                ) from None
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            print(f"{path.parent}: no locks on this file system, so start no second training in it.", flush=True)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        os.close(descriptor)  # the one before has removed the file in the meantime
