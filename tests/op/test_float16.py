"""Every float16 goes in and comes out, and products are rounded as PyTorch rounds them. Run with every vector code by
backends/test_instruction_sets.py: the portable one converts by bits."""

import torch

from kerneldna_ops.functional import conv2d

EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).view(1, 1, 256, 256)


def test_every_number_comes_back():
    torch.testing.assert_close(
        conv2d(EVERY, torch.ones(1, 1, 1, 1).half(), backend="cpu"), EVERY, rtol=0, atol=0, equal_nan=True
    )


def test_products_are_rounded_to_nearest():
    generator = torch.Generator().manual_seed(0)
    weight = torch.cat([torch.randn(48, generator=generator), 2.0 ** torch.arange(-12, 4)]).half().view(64, 1, 1, 1)
    expected = (EVERY.float() * weight.float().view(1, 64, 1, 1)).half()
    torch.testing.assert_close(conv2d(EVERY, weight, backend="cpu"), expected, rtol=0, atol=0, equal_nan=True)
