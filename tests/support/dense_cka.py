"""CKA by its definition, with loops over samples: slow, and nothing of kerneldna_ops.analysis in it."""

from itertools import permutations
from math import sqrt

import torch


def kernel(features):
    """Inner products of samples as nested lists of Python's floats."""
    samples = features.detach().double().flatten(1)
    return [[float((one * other).sum()) for other in samples] for one in samples]


def hsic_1(k, m):
    """The U-statistic of HSIC (Song et al. 2012, theorem 2): the mean of a kernel over all 4 different samples."""
    n = len(k)
    total = sum(k[a][b] * (m[a][b] + m[c][d] - 2 * m[a][c]) for a, b, c, d in permutations(range(n), 4))
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def dense_cka(batches_of_features):
    """[L, L] from a list over batches, of equal size, of lists over layers of features [B, ...]."""
    layers = range(len(batches_of_features[0]))
    kernels = [[kernel(features) for features in batch] for batch in batches_of_features]

    def mean(one, other):
        return sum(hsic_1(batch[one], batch[other]) for batch in kernels) / len(kernels)

    norms = [sqrt(mean(layer, layer)) for layer in layers]
    return torch.tensor(
        [[mean(a, b) / (norms[a] * norms[b]) for b in layers] for a in layers],
        dtype=torch.float64,
    )
