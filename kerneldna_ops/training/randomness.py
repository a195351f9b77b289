"""Random numbers that depend on what they are for, and not on what was drawn before: nothing has to be saved."""

from __future__ import annotations

import hashlib

from torch import Generator


def seed_of(*what: int | str) -> int:
    """A seed for torch that differs wherever `what` does, the same on every machine."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*what: int | str) -> Generator:
    """A generator on the CPU that starts at seed_of(*what)."""
    return Generator().manual_seed(seed_of(*what))
