"""Arguments of squeeze_excite, what is right for them in float64, and arguments that every kernel refuses."""

import math

import torch
import torch.nn.functional as F

from support.cases import CPU
from support.tolerance import Truth, assert_within, largest


def arguments(shape, dtype, hidden=None, device=CPU):
    """Values of a size that leaves the gate far from 0 and 1; the means of the channels differ."""
    channels = shape[1]
    hidden = hidden or channels // 4 + 1
    input = torch.randn(shape) + torch.randn(channels, 1, 1)
    fc1, fc2 = torch.randn(hidden, channels) * channels**-0.5, torch.randn(channels, hidden) * hidden**-0.5
    return [t.to(device, dtype) for t in (input, fc1, torch.randn(hidden), fc2, torch.randn(channels))]


def plain(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    hidden = F.relu(F.linear(input.mean((2, 3)), fc1_weight.flatten(1), fc1_bias))
    return torch.sigmoid(F.linear(hidden, fc2_weight.flatten(1), fc2_bias))


def truth(args):
    args = [None if t is None else t.cpu().double() for t in args]
    input, fc1_weight, fc1_bias, fc2_weight, fc2_bias = [None if t is None else t.abs() for t in args]
    hidden = F.linear(input.mean((2, 3)), fc1_weight.flatten(1), fc1_bias)
    logits = F.linear(hidden, fc2_weight.flatten(1), fc2_bias)
    return Truth("gate", plain(*args), largest(logits) / 4, math.inf)  # the slope of the sigmoid is 1/4 at most


def check(op, args):
    gate = op(*args)
    assert gate.dtype == args[0].dtype
    assert gate.is_contiguous()
    assert_within([gate], [truth(args)], [[plain(*args)]])


VALID = {
    "input": torch.zeros(2, 8, 3, 3),
    "fc1_weight": torch.zeros(2, 8),
    "fc1_bias": torch.zeros(2),
    "fc2_weight": torch.zeros(8, 2),
    "fc2_bias": torch.zeros(8),
}
INVALID = [
    ({"input": torch.zeros(8, 3, 3)}, r"input must be 4-D \[N, C, H, W\], got 3-D \[8, 3, 3\]"),
    ({"input": torch.zeros(2, 8, 3, 3, dtype=torch.int64)}, "input must be float64, .*, got int64"),
    ({"input": torch.zeros(2, 8, 3, 3, dtype=torch.complex64)}, "input must be float64, .*, got complex64"),
    ({"input": torch.zeros(2, 8, 0, 3)}, r"only the batch of input may be empty, got \[2, 8, 0, 3\]"),
    ({"input": torch.zeros(2, 0, 3, 3)}, r"only the batch of input may be empty, got \[2, 0, 3, 3\]"),
    ({"input": torch.zeros(2, 7, 3, 3)}, r"fc1_weight must have shape \[R, 7\] or \[R, 7, 1, 1\] .* got \[2, 8\]"),
    ({"fc1_weight": torch.zeros(0, 8)}, r"fc1_weight must have shape .* with R at least 1, got \[0, 8\]"),
    ({"fc1_weight": torch.tensor(1.0)}, r"fc1_weight must have shape .*, got \[\]"),
    ({"fc1_weight": torch.zeros(2, 8, 3, 3)}, r"fc1_weight must have shape .*, got \[2, 8, 3, 3\]"),
    ({"fc1_weight": torch.zeros(2, 8).half()}, r"fc1_weight must have the dtype of input \(float32\), got float16"),
    ({"fc1_bias": torch.zeros(3)}, r"fc1_bias must have shape \[2\], got \[3\]"),
    ({"fc2_weight": torch.zeros(2, 8)}, r"fc2_weight must have shape \[8, 2\] or \[8, 2, 1, 1\], got \[2, 8\]"),
    ({"fc2_weight": torch.zeros(8, 2).double()}, r"fc2_weight must have the dtype of input \(float32\), got float64"),
    ({"fc2_bias": torch.zeros(8, 1)}, r"fc2_bias must have shape \[8\], got \[8, 1\]"),
    ({"fc2_bias": torch.zeros(8).bfloat16()}, r"fc2_bias must have the dtype of input \(float32\), got bfloat16"),
]
