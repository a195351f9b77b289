"""The learning rate as a share of its highest value."""

from __future__ import annotations

import math


def warmup_then_cosine(step: int, warmup: float, total: int) -> float:
    """The factor of step `step` of `total`, counted from 0: (step + 1) / warmup up to the first `warmup` steps, then
    half a cosine from 1 that reaches 0 at step `total`."""
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if step >= total:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
