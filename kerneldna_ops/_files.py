"""Files that appear whole or not at all, and whether they still are."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the place of `path` when the block ends, unless the block failed.

    What `path` holds is then on the disk, so that a power cut leaves the old or the new file too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` left that were killed; none may be at work."""
    for leftover in path.parent.glob(f".[0-9]*-{path.name}"):
        leftover.unlink()


def check_whole(path: Path) -> None:
    """Raises a BadZipFile, or what else a damaged archive makes zipfile raise, if a part of a file of torch.save has
    changed since it was written, which torch.load does not notice; and an OSError for a pipe, which would be waited for
    endlessly, and whatever else is no file."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
