"""The pass around aten's convolutions, interpreted, against float64."""

import pytest
import torch

from kerneldna_ops.triton_kernels import scale_and_dot as module
from kerneldna_ops.triton_kernels.scale_and_dot import scale_and_dot
from support.layouts import IMAGES

pytestmark = pytest.mark.usefixtures("threads", "poisoned_memory")

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 4), (3, 70, 3, 2), (2, 5, 30, 31), (2, 64, 8, 8)]


@pytest.fixture(params=SHAPES, ids=str)
def tensors(request):
    batch, channels, _, _ = request.param
    return torch.randn(request.param), torch.randn(request.param), torch.randn(batch, channels)


def check(result, a, b, scale, tolerance):
    out, dots = result
    a, b, scale = a.double(), b.double(), scale.double()
    torch.testing.assert_close(out.double(), a * scale[:, :, None, None], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dots.double(), (a * b).sum((2, 3)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layout_b", ["contiguous", "channels_last"])
@pytest.mark.parametrize("layout_a", list(IMAGES))
def test_both_formats_and_others(tensors, layout_a, layout_b):
    a, b, scale = tensors
    a, b = IMAGES[layout_a](a), IMAGES[layout_b](b)
    check(scale_and_dot(a, b, scale), a, b, scale, 1e-6)


def test_half(tensors):
    a, b, scale = (tensor.half() for tensor in tensors)
    check(scale_and_dot(a, b, scale), a, b, scale, 1e-3)


def test_parts_of_a_sample(tensors, monkeypatch):
    monkeypatch.setattr(module, "_PIXELS_OF_A_PART", 100)
    a, b, scale = tensors
    check(scale_and_dot(a, b, scale), a, b, scale, 1e-6)


def test_only_what_is_asked_for(tensors):
    a, b, scale = tensors
    assert scale_and_dot(a, None, None) == (a, None)
    out, dots = scale_and_dot(a, None, scale)
    assert dots is None
    torch.testing.assert_close(out, a * scale[:, :, None, None])
    out, dots = scale_and_dot(a, b, None)
    assert out is a
    torch.testing.assert_close(dots, (a * b).sum((2, 3)), rtol=1e-5, atol=1e-4)


def test_the_format_is_that_of_a(tensors):
    a, b, scale = tensors
    a = a.contiguous(memory_format=torch.channels_last)
    assert scale_and_dot(a, b, scale)[0].is_contiguous(memory_format=torch.channels_last)
