"""Sizes as numbers while torch.jit.trace records."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def not_traced() -> AbstractContextManager[None]:
    """Sizes are numbers here, which torch.jit.trace would record."""
    state = torch._C._get_tracing_state()
    return nullcontext() if state is None else _without(state)  # outside of a trace without a generator's cost


@contextmanager
def _without(state: Any) -> Iterator[None]:
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
