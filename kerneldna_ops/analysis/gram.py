"""From features to the matrices whose inner products are HSIC: Gram matrices of samples, centred without bias."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST_SAMPLES = 4
_CHUNK = 2**15  # features: few enough for the digits, and for a cache, many enough to be quick


def gram(features: Tensor) -> Tensor:
    """Inner products between samples, [B, B] float64, of features [B, ...] of any float dtype, less their mean.

    HSIC does not change when the same vector is subtracted from all samples, but rounding does: features far from zero
    would leave little of their differences. Products are taken in float32 at least, in chunks of features that are
    summed in float64.
    """
    # In the order in which they stand in memory, so that channels_last is not copied: a Gram matrix does not mind.
    order = sorted(range(1, features.dim()), key=features.stride, reverse=True)
    flat = features.permute(0, *order).reshape(len(features), -1)
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    precision = torch.promote_types(flat.dtype, torch.float32)
    with torch.autocast(flat.device.type, enabled=False):
        for chunk in flat.split(_CHUNK, 1):
            chunk = chunk.to(precision)
            chunk = chunk - chunk[:1]  # exactly zero where all samples are the same, which the mean alone is not
            chunk -= chunk.mean(0)
            total += chunk @ chunk.T
    return total


def centre(gram: Tensor) -> Tensor:
    """The U-centred form A of a symmetric matrix [B, B], B at least 4: diagonal zero, and rows that sum to zero.

    With it the unbiased estimator of HSIC (Song et al. 2012; HSIC_1 in Nguyen, Raghu and Kornblith 2021, equation 3),

        HSIC_1(K, L) = (tr(K'L') + 1'K'1 1'L'1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K'L'1) / (n (n - 3)),

    where K' and L' are K and L with zero diagonals, is one inner product, <A_K, A_L> / (n (n - 3)) (Székely and Rizzo
    2014, partial distance correlation). HSIC_1 of all pairs of layers is therefore one matrix product.
    """
    n = len(gram)
    hollow = gram - torch.diag(gram.diagonal())
    sums = hollow.sum(0) / (n - 2)
    centred = hollow - sums[:, None] - sums[None, :] + sums.sum() / (n - 1)
    return centred.fill_diagonal_(0)


def hsic(centred: Tensor, samples: int) -> Tensor:
    """HSIC_1 between all pairs, [L, L], from U-centred Gram matrices of `samples` samples, flattened: [L, B * B]."""
    return centred @ centred.T / (samples * (samples - 3))
