"""The estimator itself: unbiased, and computed without losing digits."""

import pytest
import torch

from kerneldna_ops.analysis.gram import centre, gram, hsic
from support.dense_cka import hsic_1, kernel

pytestmark = pytest.mark.usefixtures("threads")


def estimate(*features):
    return hsic(torch.stack([centre(gram(each)).flatten() for each in features]), len(features[0]))


@pytest.mark.parametrize("samples", [4, 5, 7])
def test_like_the_definition(samples):
    features = [torch.randn(samples, 9, dtype=torch.float64) + 2, torch.randn(samples, 3, 2, dtype=torch.float64)]
    kernels = [kernel(each) for each in features]
    expected = torch.tensor([[hsic_1(k, m) for m in kernels] for k in kernels], dtype=torch.float64)
    torch.testing.assert_close(estimate(*features), expected)


def test_centred_matrices_have_rows_that_sum_to_zero():
    centred = centre(gram(torch.randn(6, 9)))
    assert centred.diagonal().eq(0).all()
    torch.testing.assert_close(centred.sum(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)


def test_no_bias():
    """Over many batches the mean is what it estimates, |covariance|^2: here 1.25, and 0 without relation. The biased
    estimator, tr(KHLH) / (n - 1)^2, would be far from both with batches so small."""
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    estimates, biased = [], []
    for _ in range(2000):
        x = torch.randn(5, 2)
        features = x, x @ mixing + torch.randn(5, 2), torch.randn(5, 2)
        estimates.append(estimate(*features)[0, 1:])
        middle = [each - each.mean(0) for each in features]
        biased.append(((middle[0] @ middle[0].T) * (middle[2] @ middle[2].T)).sum() / 16)
    estimates = torch.stack(estimates)
    error = estimates.std(0) / len(estimates) ** 0.5
    assert (estimates.mean(0) - torch.tensor([1.25, 0])).abs().lt(4 * error).all()
    assert torch.stack(biased).mean() > 20 * error[1]


def test_far_from_zero():
    """Features of 1000 with differences of 1: of an uncentred product in float32 nothing would be left."""
    far = torch.randn(8, 30000) + 1000
    exact = centre(far.double() @ far.double().T)
    largest = float(exact.abs().max())
    torch.testing.assert_close(centre(gram(far)), exact, rtol=0, atol=3e-5 * largest)
    assert (centre((far @ far.T).double()) - exact).abs().max() > largest


def test_many_features_of_every_dtype(dtype):
    """More than one chunk; half dtypes as exact as float32."""
    features = torch.randn(4, 3, 110, 110).to(dtype)
    moved = features.double() - features.double().mean(0)
    expected = torch.einsum("achw,bchw->ab", moved, moved)
    torch.testing.assert_close(gram(features), expected, rtol=0, atol=0.3 if dtype != torch.float64 else 1e-8)


def test_channels_last():
    features = torch.randn(5, 3, 4, 6)
    last = features.to(memory_format=torch.channels_last)
    torch.testing.assert_close(gram(last), gram(features), rtol=0, atol=1e-4)
