"""Sums over very many pixels and samples are as precise as those of plain PyTorch in the same precision.

The rule of tolerance.py, but for its terms that grow with the number of summands. Constant values are the hard ones:
every addition of a chain is rounded the same way.
"""

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops import use_backend
from kerneldna_ops.call import TENSORS
from kerneldna_ops.functional import conv2d, conv2d_per_sample, conv_transpose2d
from support.cases import ABSENT, CPU, SAMPLE, STATIC, Case, build, grad_output
from support.devices import skip_unless_it_runs
from support.tolerance import largest
from support.truths import by_autograd

pytestmark = pytest.mark.usefixtures("threads")

CASES = [
    Case("kernel_1x1", (32, 8, 56, 56), 8, (1, 1)),
    Case("kernel_3x3", (16, 16, 56, 56), 16, padding=(1, 1)),
    Case("many_small_maps", (512, 8, 7, 7), 16, padding=(1, 1)),
    Case("wide_map", (2, 4, 8, 4000), 4, padding=(1, 1)),
    Case("groups_4_stride_2x1", (32, 16, 56, 28), 16, stride=(2, 1), padding=(1, 1), groups=4),
    Case("depthwise", (32, 8, 56, 56), 8, padding=(1, 1), groups=8),
    Case("depthwise_large_map", (2, 4, 224, 224), 8, padding=(1, 1), groups=4),
]


def uniform(tensor):
    """From -0.5 to 1.5, so that sums do not cancel; in the precision of float16, the same in every dtype."""
    numbers = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel()))
    return torch.empty_like(tensor).copy_((2 * numbers - 0.5).half())


def constant(tensor):
    return torch.full_like(tensor, 0.0999755859375)  # 0.1 in float16


VALUES = {"uniform": uniform, "constant": constant}


def plain(call):
    """Whole batches in the operators of PyTorch."""
    x, c, f, s = call.input, call.channel_attention, call.filter_attention, call.spatial_attention
    geometry = (None, call.stride, call.padding, call.dilation, call.groups)
    x = x if c is None else x * c[..., None, None]
    if s is not None and s.dim() == 3:
        y = torch.cat([F.conv2d(x[n : n + 1], call.weight * s[n], *geometry) for n in range(len(x))])
    else:
        y = F.conv2d(x, call.weight if s is None else call.weight * s, *geometry)
    y = y if f is None else y * f[..., None, None]
    return y + call.bias[:, None, None]


def assert_as_precise(results, plain_results, truths):
    """At most twice the worst relative error of plain PyTorch in any of these, which are all results of one call.

    A chain of 256 additions is as short as the kernels have it: its error is granted where plain PyTorch has less.
    """

    def error(result, truth):
        return largest(result.cpu().double() - truth) / largest(truth)

    dtype = results[0].dtype
    chain = 8 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    allowed = 2 * max(torch.finfo(dtype).eps, chain, *map(error, plain_results, truths))
    errors = [error(*both) for both in zip(results, truths, strict=True)]
    assert max(errors) <= allowed, f"{errors}, allowed is {allowed:.3g}"


@pytest.mark.on("cpu", "cuda")
@pytest.mark.without_backends("composite", "reference")  # they are made of what they would be compared with
@pytest.mark.parametrize("kind", [ABSENT, STATIC, SAMPLE])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(device, backend, case, layout, values, kind):
    # With s per sample plain PyTorch has a convolution for each, of which there may be many.
    spatial = ABSENT if kind is SAMPLE and case.input[0] > 32 else kind
    case = case.but(channel=kind, filter=kind, spatial=spatial, input_layout=layout, grad_layout=layout)
    skip_unless_it_runs(backend, build(case, torch.float32, device))

    def gradients(conv, dtype, device=CPU):
        call = build(case, dtype, device)
        call = call._replace(input=VALUES[values](call.input))
        found = by_autograd(conv, call, VALUES[values](grad_output(case, dtype, device)))
        return [gradient for gradient in found[1:] if gradient is not None]  # of sums over pixels

    assert_as_precise(
        gradients(lambda call: conv2d(**call._asdict(), backend=backend), torch.float32, device),
        gradients(plain, torch.float32, device),
        gradients(plain, torch.float64),
    )


def each_alone(x, kernels, biases):
    """Sample n by kernels[n] and biases[n]."""
    return torch.cat([F.conv2d(x[n : n + 1], kernels[n], biases[n], padding=1) for n in range(len(x))])


def transposed(x, w, b, c, f):
    y = F.conv_transpose2d(x * c[..., None, None], w, padding=1)
    return y * f[..., None, None] + b[:, None, None]


# name -> (ours, in plain PyTorch, shapes of the input and the others)
OTHER_KERNELS = {
    "mixture": (
        lambda x, w, b, a: conv2d(x, w, b, kernel_attention=a, padding=1),
        lambda x, w, b, a: each_alone(x, torch.einsum("nk,k...->n...", a, w), a @ b),
        [(16, 8, 56, 56), (3, 8, 8, 3, 3), (3, 8), (16, 3)],
    ),
    "per_sample": (
        lambda x, w, b: conv2d_per_sample(x, w, b, padding=1),
        each_alone,
        [(4, 8, 112, 112), (4, 8, 8, 3, 3), (4, 8)],
    ),
    "transposed": (
        lambda x, w, b, c, f: conv_transpose2d(x, w, b, channel_attention=c, filter_attention=f, padding=1),
        transposed,
        [(16, 8, 56, 56), (8, 8, 3, 3), (8,), (16, 8), (16, 8)],
    ),
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", OTHER_KERNELS)
def test_gradients_of_other_kernels(name, layout, values):
    ours, plain, (shape, *others) = OTHER_KERNELS[name]
    tensors = [VALUES[values](torch.empty(shape)).to(memory_format=layout), *map(torch.rand, others)]
    grad = VALUES[values](torch.empty(ours(*tensors).shape)).to(memory_format=layout)

    def gradients(conv, dtype):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        return torch.autograd.grad(conv(*leaves), leaves[1:], grad.to(dtype))  # of sums over pixels

    assert_as_precise(
        gradients(ours, torch.float32), *(gradients(plain, dtype) for dtype in (torch.float32, torch.float64))
    )


@pytest.mark.on("cpu", "cuda")
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradient_of_bias(device, backend, dtype, layout, values):
    case = Case("bias", (32, 3, 112, 112), 5, (1, 1), channel=ABSENT, filter=ABSENT, spatial=ABSENT, grad_layout=layout)
    call, grad = build(case, dtype, device), VALUES[values](grad_output(case, dtype, device))
    skip_unless_it_runs(backend, call)
    with use_backend(backend):
        bias = torch.ops.kerneldna.conv_backward(grad, *call, [name == "bias" for name in TENSORS])[2]
    truth = grad.double().sum((0, 2, 3)).cpu()
    assert_as_precise([bias], [grad.sum((0, 2, 3))], [truth])


def test_gate_in_training():
    """The gradients of fc2, which are sums over the samples of the batch."""
    samples, channels, hidden = 2**17, 8, 4
    tensors = torch.randn(samples, channels, 1, 1), torch.randn(hidden, channels), torch.ones(hidden)
    tensors += torch.zeros(hidden), torch.randn(channels, hidden), torch.randn(channels)
    grad = torch.full((samples, channels), 0.1)

    def by_modules(dtype):
        x, fc1, gamma, beta, *fc2 = (tensor.to(dtype).requires_grad_() for tensor in tensors)
        features = F.relu(F.batch_norm(F.linear(x.flatten(1), fc1), None, None, gamma, beta, training=True))
        return torch.autograd.grad(torch.sigmoid(F.linear(features, *fc2)), fc2, grad.to(dtype))

    ops, (_, fc1, gamma, _, fc2, _) = torch.ops.kerneldna, tensors
    outputs = ops._squeeze_excite_training(*tensors, torch.zeros(hidden), torch.ones(hidden), 1e-5, 0.1, True)
    gradients = ops._squeeze_excite_training_backward(grad, fc1, gamma, fc2, *outputs, 1, True)
    assert_as_precise(gradients[-2:], by_modules(torch.float32), by_modules(torch.float64))
