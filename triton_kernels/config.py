"""How a kernel cuts its work into tiles."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Config:
    """One way to run a convolution.

    form: "P" (conv_forward.py) or "S", "M", "X" (conv_forward_tma.py).
    block_m, block_n, block_k: pixels, filters and reduction indices of a tile.
    split_k: how many programs share the reduction of a tile.
    box: forms S, M and X only, the samples, rows and columns of the block_m pixels of a tile.
    """

    form: str = "P"
    block_m: int = 128
    block_n: int = 128
    block_k: int = 64
    num_warps: int = 8
    num_stages: int = 3
    split_k: int = 1
    box: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> "Config":
        """From a file, where a box is a list."""
        box = options.get("box")
        return cls(**options | {"box": box and tuple(box)})

    def tile(self, *names: str) -> dict[str, int]:
        """As a kernel takes it that has these names for block_m, block_n and block_k."""
        sizes = dict(zip(names, (self.block_m, self.block_n, self.block_k), strict=True))
        return sizes | {"STAGES": self.num_stages, "num_warps": self.num_warps}
