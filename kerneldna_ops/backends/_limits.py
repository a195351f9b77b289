"""What both backends of fused GPU kernels ask before they take a call."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ..checks import out_size

OLDEST_GPU = (8, 0)
_LARGEST_INT32 = 2**31 - 1


def too_old(device: torch.device) -> str:
    """The reason against a CUDA device, or nothing."""
    capability = torch.cuda.get_device_capability(device)
    if capability >= OLDEST_GPU:
        return ""
    return "the GPU has compute capability {}.{}, {}.{} is needed".format(*capability, *OLDEST_GPU)


def sizes(
    input: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> dict[str, int]:
    """What kernels of either backend count in 32 bits, by name."""
    geometry = zip(input.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    out_sample = weight.shape[0] * prod(out_size(*size) for size in geometry)
    return {"elements in the weight": weight.numel(), "elements in a sample": max(prod(input.shape[1:]), out_sample)}


def too_large(sizes: dict[str, int]) -> str:
    """The reason against sizes, by name, that kernels count in 32 bits, or nothing."""
    reasons = (f"{size} {what}" for what, size in sizes.items() if size > _LARGEST_INT32)
    reason = next(reasons, "")
    return reason and f"{reason}, its kernels count to {_LARGEST_INT32}"
