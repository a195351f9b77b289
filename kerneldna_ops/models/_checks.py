"""What the builders of networks say about arguments that do not fit, and where torchvision is missing."""

import torch

from .._extras import TOGETHER, missing


def check_counts(builder: str, **counts: int) -> None:
    """Every argument must be a whole number of at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{builder}: {name} must be a whole number of at least 1, got {count!r}")


def need_torchvision(user: str, operators: bool = False) -> None:
    """Raises a ModuleNotFoundError unless torchvision can be imported, and has nms if `operators`."""
    try:
        import torchvision.extension
    except (ImportError, RuntimeError, AttributeError) as error:
        # torchvision built for another torch fails with RuntimeError as soon as it is imported.
        raise missing(f"{user}: needs torchvision", "train", error) from error
    if operators and not torchvision.extension._has_ops():
        raise ModuleNotFoundError(
            f"{user}: needs the operators of torchvision (nms), and torchvision {torchvision.__version__} was built for"
            f" another torch than {torch.__version__} and cannot load them; {TOGETHER}"
        )
