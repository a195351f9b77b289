"""`python odd_shapes.py`, under the sanitizers: every op of the library on small awkward shapes, forward and backward.

A read or write outside a tensor, or undefined behaviour, ends the process. Answers are compared with the reference."""

import itertools
import random

import torch

import kerneldna_ops
from kerneldna_ops.call import ATTENTIONS
from kerneldna_ops.functional import conv2d

# C_in, C_out, groups, kernel, stride, padding, dilation, map. Channels and maps miss every vector width by a little.
LAYERS = [
    (1, 1, 1, (1, 1), (1, 1), (0, 0), (1, 1), (1, 1)),
    (3, 5, 1, (3, 3), (1, 1), (1, 1), (1, 1), (7, 5)),
    (17, 33, 1, (3, 3), (1, 1), (1, 1), (1, 1), (9, 11)),
    (16, 15, 1, (1, 1), (1, 1), (0, 0), (1, 1), (7, 7)),
    (31, 49, 1, (1, 1), (2, 2), (0, 0), (1, 1), (5, 9)),
    (6, 4, 2, (3, 2), (2, 1), (1, 0), (2, 1), (9, 8)),
    (19, 19, 19, (3, 3), (1, 1), (1, 1), (1, 1), (13, 6)),
    (8, 8, 8, (3, 3), (2, 2), (1, 1), (1, 1), (8, 8)),
    (4, 8, 4, (5, 5), (1, 1), (2, 2), (1, 1), (6, 6)),
    (3, 7, 1, (7, 7), (2, 2), (3, 3), (1, 1), (15, 13)),
    (65, 129, 1, (3, 3), (2, 2), (1, 1), (1, 1), (7, 7)),
    (2, 3, 1, (3, 3), (1, 1), (4, 4), (1, 1), (2, 2)),
    (5, 6, 1, (3, 3), (1, 1), (2, 2), (2, 2), (6, 17)),
]
BATCHES = (1, 3)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


def exactly(shape, dtype, channels_last=False):
    """A tensor that ends where its memory ends, or one whose innermost elements are not adjacent."""
    if channels_last and len(shape) in (4, 5):
        return torch.randn(shape, dtype=dtype).movedim(-3, -1).contiguous().movedim(-1, -3)
    return torch.randn(shape, dtype=dtype)


def run(layer, batch, dtype, channels_last, per_sample, kernels=()):
    """kernels: (K,) for a mixture of so many, (batch,) for one given to each sample."""
    c_in, c_out, groups, kernel, stride, padding, dilation, size = layer
    lead = (batch,) if per_sample else ()
    tensors = [
        exactly((batch, c_in, *size), dtype, channels_last),
        exactly((*kernels, c_out, c_in // groups, *kernel), dtype, channels_last),
        exactly((*kernels, c_out), dtype),
        exactly((*lead, c_in), dtype),
        exactly((*lead, c_out), dtype),
        exactly((*lead, *kernel), dtype),
    ]
    if kernels and kernels != (batch,):
        tensors.append(exactly((batch, *kernels), dtype))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def answers(dtype, backend):
        leaves = [tensor.to(dtype).detach().requires_grad_() for tensor in tensors]
        named = dict(zip((*ATTENTIONS, "kernel_attention"), leaves[3:], strict=False))
        y = conv2d(*leaves[:3], **named, backend=backend, **options)
        grad = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(dtype)
        return [y, *torch.autograd.grad(y, leaves, grad)]

    for got, wanted in zip(answers(dtype, "cpu"), answers(torch.float64, "reference"), strict=True):
        bound = TOLERANCE[dtype] * (wanted.abs().max() + 1)
        assert (got.double() - wanted).abs().max() <= bound, (layer, batch, dtype, channels_last, per_sample, kernels)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    choices = random.Random(0)
    count = 0
    for layer, dtype in itertools.product(LAYERS, DTYPES):
        # Every layer in every dtype; batch, layout and kind of attention are drawn, or this would take minutes.
        run(layer, choices.choice(BATCHES), dtype, choices.random() < 0.5, choices.random() < 0.7)
        batch = choices.choice(BATCHES)
        run(layer, batch, dtype, choices.random() < 0.5, choices.random() < 0.7, choices.choice([(4,), (batch,)]))
        count += 2
    for batch, channels, hidden, size in ((1, 1, 1, 1), (3, 17, 5, 7), (2, 64, 16, 3)):
        x, fc1, fc2 = (
            torch.randn(batch, channels, size, size),
            torch.randn(hidden, channels),
            torch.randn(channels, hidden),
        )
        torch.ops.kerneldna.squeeze_excite(x, fc1[..., None, None], None, fc2[..., None, None], torch.randn(channels))
        count += 1
    print(f"{count} calls of {kerneldna_ops.__file__}, {torch.ops.kerneldna._build_info()}")


if __name__ == "__main__":
    main()
