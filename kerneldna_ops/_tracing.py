"""Sizes as numbers while torch.jit.trace records."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def not_traced() -> Iterator[None]:
    """Sizes are numbers here, which torch.jit.trace would record."""
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
