"""What StyleGAN's convolutions do to sizes: the padding of conv2d_resample, and its filter (upfirdn2d) in one pass."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ._tracing import not_traced

Sides = Sequence[tuple[int, int]]  # before and behind, of rows and of columns


def around_up(weight: Tensor, padding: Sequence[int], resample_filter: Tensor | None) -> tuple[tuple[int, int], Sides]:
    """For up=2 the padding of the transposed convolution, and of the filter behind it.

    Zeros between the pixels, the filter and then the convolution is how it is defined. A filter of n taps takes
    (n + 1) // 2 zeros in front and (n - 2) // 2 behind; where the transposed convolution comes first, it has already
    spread each pixel over kernel - 1 of those in front and kernel - 2 behind. What it need not have made, it leaves
    away itself.
    """
    with not_traced():
        sizes = zip(padding, _taps(resample_filter), weight.shape[-2:], strict=True)
        sides = [(p + (n + 1) // 2 - k + 1, p + (n - 2) // 2 - k + 2) for p, n, k in sizes]
    rows, columns = (max(min(-before, -behind), 0) for before, behind in sides)
    return (rows, columns), [
        (before + n, behind + n) for (before, behind), n in zip(sides, (rows, columns), strict=True)
    ]


def before_down(padding: Sequence[int], resample_filter: Tensor | None) -> Sides:
    """For down=2 the padding of the filter, behind which the convolution has none, and stride 2."""
    with not_traced():
        return [(p + (n - 1) // 2, p + (n - 2) // 2) for p, n in zip(padding, _taps(resample_filter), strict=True)]


def _taps(resample_filter: Tensor | None) -> tuple[int, int]:
    """How many it has along rows and columns."""
    return (1, 1) if resample_filter is None else (resample_filter.shape[0], resample_filter.shape[-1])


def low_pass(x: Tensor, resample_filter: Tensor | None, sides: Sides, gain: int) -> Tensor:
    """Every channel convolved with the filter times gain, [taps] along rows and columns or [rows, columns] at once.

    As upfirdn2d does it, whose filter is one of a convolution, not of a correlation.
    """
    # What both sides have in common the convolution adds as it goes; the rest, which may be less than nothing, is cut
    # off or added before.
    common = [max(min(pair), 0) for pair in sides]
    (top, bottom), (left, right) = [[side - n for side in pair] for pair, n in zip(sides, common, strict=True)]
    if any((top, bottom, left, right)):
        x = F.pad(x, (left, right, top, bottom))
    if resample_filter is None:
        x = F.pad(x, (common[1], common[1], common[0], common[0])) if any(common) else x
        return x if gain == 1 else x * gain
    with not_traced():
        channels = x.shape[1]
    if resample_filter.dim() == 2:
        taps = (resample_filter.flip((0, 1)) * gain).to(x.dtype)
        return F.conv2d(x, taps.expand(channels, 1, -1, -1), padding=common, groups=channels)
    taps = (resample_filter.flip(0) * gain**0.5).to(x.dtype)
    x = F.conv2d(x, taps.expand(channels, 1, 1, -1), padding=(0, common[1]), groups=channels)
    return F.conv2d(x, taps[:, None].expand(channels, 1, -1, -1), padding=(common[0], 0), groups=channels)
