"""The squeeze-and-excitation kernels, interpreted: the op for inference, and nn.SqueezeExcite in training."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops import use_backend
from kerneldna_ops.nn import SqueezeExcite, _gate_kernels_triton
from kerneldna_ops.nn._trainable_gate import Statistics, TrainableGate
from kerneldna_ops.triton_kernels import squeeze_excite as kernels
from kerneldna_ops.triton_kernels import squeeze_excite_training as training
from kerneldna_ops.triton_kernels.launch import recording
from support.layouts import IMAGES, channels_last, sliced
from support.tolerance import Truth, assert_within, largest

pytestmark = pytest.mark.usefixtures("interpreted", "poisoned_memory", "threads")


# [N, C, H, W] and R: blocks that are full and that are not, of samples, channels, features and pixels.
SHAPES = [
    ((3, 19, 7, 5), 5),
    ((0, 4, 2, 2), 2),
    ((1, 1, 3, 3), 1),
    ((17, 67, 3, 2), 33),
    ((1, 70, 20, 17), 65),
    ((5, 33, 1, 40), 9),
    ((4, 6, 40, 1), 2),
    ((2, 130, 1, 1), 16),
]


def arguments(shape, hidden, dtype=torch.float32):
    channels = shape[1]
    input = torch.randn(shape) + torch.randn(channels, 1, 1)
    fc1, fc2 = torch.randn(hidden, channels) * channels**-0.5, torch.randn(channels, hidden) * hidden**-0.5
    return [t.to(dtype) for t in (input, fc1, torch.randn(hidden), fc2, torch.randn(channels))]


def plain(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    hidden = F.relu(F.linear(input.mean((2, 3)), fc1_weight.flatten(1), fc1_bias))
    return torch.sigmoid(F.linear(hidden, fc2_weight.flatten(1), fc2_bias))


def check_inference(args):
    double = [None if t is None else t.double() for t in args]
    input, fc1, b1, fc2, b2 = [None if t is None else t.abs() for t in double]
    logits = F.linear(F.linear(input.mean((2, 3)), fc1.flatten(1), b1), fc2.flatten(1), b2)
    truth = Truth("gate", plain(*double), largest(logits) / 4, math.inf)  # the slope of the sigmoid is 1/4 at most
    gate = kernels.squeeze_excite(*args)
    assert gate.dtype == args[0].dtype
    assert_within([gate], [truth], [[plain(*args)]])


@pytest.mark.parametrize("precision", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("shape", "hidden"), SHAPES, ids=str)
def test_inference(shape, hidden, precision):
    check_inference(arguments(shape, hidden, precision))


@pytest.mark.parametrize("layout", IMAGES)
def test_inference_of_any_layout(layout):
    args = arguments((3, 19, 7, 5), 5)
    args[0] = IMAGES[layout](args[0])
    check_inference(args)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_parts_of_a_sample(layout, monkeypatch):
    """Several programs share its pixels; the last has fewer."""
    monkeypatch.setattr(kernels, "_BLOCK", 64)
    args = arguments((3, 19, 7, 5), 5)
    args[0] = IMAGES[layout](args[0])
    with recording() as recorded:
        kernels.squeeze_excite(*args)
    assert recorded[0].args["parts"] > 2
    check_inference(args)
    check_training(layer(19, 5), args[0])


@pytest.mark.parametrize("absent", [(2,), (4,), (2, 4)], ids=["fc1_bias", "fc2_bias", "both"])
def test_inference_without_bias(absent):
    args = arguments((3, 8, 5, 5), 4)
    for i in absent:
        args[i] = None
    check_inference(args)


def test_inference_with_weights_of_1x1_convolutions():
    args = arguments((3, 8, 5, 5), 4)
    args[1], args[3] = (sliced(args[i][..., None, None]) for i in (1, 3))
    args[2], args[4] = sliced(args[2]), sliced(args[4])
    check_inference(args)


def test_nan_stays_in_its_sample():
    args = arguments((3, 24, 5, 7), 6)
    args[1].abs_(), args[2].abs_()
    args[0][1, 20, 4, 6] = torch.nan
    gate = kernels.squeeze_excite(*args)
    assert gate[1].isnan().all()
    assert not gate[[0, 2]].isnan().any()


def test_launches_of_inference():
    args = [t.to("meta") for t in arguments((128, 64, 14, 14), 16)]
    with recording() as recorded:
        kernels.squeeze_excite(*args)
    assert len(recorded) == 2


def layer(channels, hidden, mode="train", momentum=0.1):
    """Nothing in it is zero or one, so that it shows when something is forgotten."""
    se = SqueezeExcite(channels, hidden=hidden)
    with torch.no_grad():
        for value in (se.bn.weight, se.bn.bias, se.bn.running_mean):
            value.normal_(0, 0.5)
        se.bn.running_var.uniform_(0.5, 2)
        se.bn.num_batches_tracked += 3
    se.bn.momentum = momentum
    return se.train(mode == "train")


def by_triton(gate):
    return getattr(gate.grad_fn, "kernels", None) is _gate_kernels_triton


def trained(se, input, backend):
    """The gate, the gradients of the input and of all parameters, and the buffers, after one step."""
    input = input.detach().requires_grad_()
    with use_backend(backend):
        gate = se(input)
    assert by_triton(gate) == (backend == "triton")
    weights = torch.linspace(-1, 2, gate.numel(), dtype=torch.float64).view(gate.shape).to(gate.dtype)
    grads = torch.autograd.grad((gate * weights).sum(), [input, *se.parameters()])
    names = ("gate", "input", *(name for name, _ in se.named_parameters()), *(name for name, _ in se.named_buffers()))
    return dict(zip(names, (gate, *grads, *(buffer.clone() for buffer in se.buffers())), strict=True))


def check_training(se, input):
    """As nn.BatchNorm1d and nn.Linear do it, in the same precision and in float64."""
    exact = trained(copy.deepcopy(se).double(), input.double(), "composite")
    expected = trained(copy.deepcopy(se), input, "composite")
    actual = trained(se, input, "triton")
    assert actual.pop("bn.num_batches_tracked") == exact.pop("bn.num_batches_tracked") == 3 + se.bn.training
    expected.pop("bn.num_batches_tracked")
    for name, value in actual.items():
        assert value.dtype == input.dtype
        assert value.shape == exact[name].shape
    # The gradients lose much where terms cancel, in the statistics above all; how much, plain PyTorch shows.
    truths = [Truth(name, exact[name], 4 * largest(exact[name]), math.inf) for name in actual]
    assert_within(list(actual.values()), truths, [list(expected.values())])


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "hidden"), [((3, 19, 7, 5), 5), ((4, 67, 2, 3), 33), ((33, 20, 1, 2), 17), ((5, 40, 20, 17), 16)], ids=str
)
def test_training(shape, hidden, precision, mode):
    input = torch.randn(shape) + torch.randn(shape[:2])[..., None, None]
    check_training(layer(shape[1], hidden, mode).to(precision), input.to(precision))


@pytest.mark.parametrize("momentum", [None, 0.0, 1.0, 0.25], ids=str)
def test_momentum(momentum):
    check_training(layer(12, 3, momentum=momentum), torch.randn(5, 12, 4, 3) * 3 + 1)


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "strided", "expanded_pixels"])
def test_training_on_any_layout(layout):
    check_training(layer(12, 3), IMAGES[layout](torch.randn(5, 12, 4, 3)))


def test_one_sample_with_fixed_statistics():
    check_training(layer(12, 3, "eval"), torch.randn(1, 12, 4, 3))


def test_statistics_fixed_by_themselves():
    se = layer(12, 3)
    se.bn.eval()
    check_training(se, torch.randn(4, 12, 4, 3))


def test_a_changed_buffer_is_noticed():
    """PyTorch counts the update of the running statistics, as it does that of a BatchNorm."""
    se = layer(12, 3)
    before = [buffer._version for buffer in se.buffers()]
    with use_backend("triton"):
        se(torch.randn(4, 12, 4, 3))
    assert all(buffer._version > version for buffer, version in zip(se.buffers(), before, strict=True))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_second_derivatives(mode):
    se = layer(6, 3, mode)
    input = torch.randn(4, 6, 2, 3, requires_grad=True)

    def second(se, input, backend):
        with use_backend(backend):
            gate = se(input)
        assert by_triton(gate) == (backend == "triton")
        (first,) = torch.autograd.grad(gate.square().sum(), input, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [input, *se.parameters()])

    expected = second(copy.deepcopy(se).double(), input.detach().double().requires_grad_(), "composite")
    for actual, truth in zip(second(se, input, "triton"), expected, strict=True):
        torch.testing.assert_close(actual.double(), truth, rtol=1e-4, atol=1e-5)


def test_only_some_gradients():
    se = layer(12, 3).requires_grad_(False)
    se.fc1.weight.requires_grad_()
    with use_backend("triton"):
        gate = se(torch.randn(4, 12, 4, 3))
    gate.sum().backward()
    assert [name for name, parameter in se.named_parameters() if parameter.grad is not None] == ["fc1.weight"]


def test_rows_beyond_the_samples_are_zero():
    """What would stand there, the gradient through the statistics, overflows in float16; infinity times 0 is NaN."""
    se = layer(6, 3)
    with torch.no_grad():
        for value in (se.bn.weight, se.bn.bias, se.fc2.weight):
            value.fill_(1.0)
        se.fc2.bias.fill_(-3.0)
    se.half()
    input = torch.ones(3, 6, 2, 3, dtype=torch.float16, requires_grad=True)
    with use_backend("triton"):
        gate = se(input)
    gate.backward(torch.full_like(gate, 1000.0))
    assert se.fc1.weight.grad.isfinite().all()


def test_launches_of_training():
    """Three forward, two backward."""
    se = layer(64, 16).to("meta")
    bn, input = se.bn, torch.empty(128, 64, 14, 14, device="meta", requires_grad=True)
    statistics = Statistics(*bn.buffers(), bn.eps, bn.momentum, bn.training)
    parameters = (se.fc1.weight, bn.weight, bn.bias, se.fc2.weight, se.fc2.bias)
    with recording() as recorded:
        gate = TrainableGate.apply(training, statistics, input, *parameters)
        assert len(recorded) == 3
        gate.backward(torch.empty_like(gate))
    assert len(recorded) == 5


def with_hook(se):
    se.fc1.register_forward_hook(lambda *args: None)


def with_a_parametrization(se):
    nn.utils.parametrizations.weight_norm(se.fc2)


UNFUSED = {
    "hook": (with_hook, torch.float32, 4),
    "parametrization": (with_a_parametrization, torch.float32, 4),
    "float64": (lambda se: se.double(), torch.float64, 4),
    "statistics in another precision": (lambda se: se.half().bn.float(), torch.float16, 4),
    "too many samples": (lambda se: None, torch.float32, training.MOST_SAMPLES + 1),
}


@pytest.mark.parametrize("why", UNFUSED)
def test_what_the_kernels_cannot_do_is_left_to_pytorch(why):
    change, dtype, samples = UNFUSED[why]
    se = layer(6, 3)
    change(se)
    with use_backend("triton"):
        assert not by_triton(se(torch.randn(samples, 6, 1, 2).to(dtype)))


def test_autocast_is_left_to_pytorch():
    with use_backend("triton"), torch.autocast("cpu", torch.bfloat16):
        assert layer(6, 3)(torch.randn(4, 6, 2, 2)).dtype == torch.bfloat16


def test_vmap_is_left_to_pytorch():
    se, inputs = layer(6, 3, "eval"), torch.randn(2, 3, 6, 2, 2)
    with use_backend("triton"):
        gates = torch.func.vmap(se)(inputs)
    torch.testing.assert_close(gates, torch.stack([se(input) for input in inputs]))


def test_one_sample_in_training_is_refused():
    with use_backend("triton"), pytest.raises(ValueError, match="training needs at least 2 samples"):
        layer(6, 3)(torch.randn(1, 6, 2, 2))


def test_not_unless_it_is_chosen():
    assert not by_triton(layer(6, 3)(channels_last(torch.randn(4, 6, 2, 2))))


THROUGH_THE_OP = """
import torch, kerneldna_ops
from kerneldna_ops.triton_kernels import squeeze_excite as kernels
answers = []
answer = kernels.squeeze_excite
kernels.squeeze_excite = lambda *args: answers.append(answer(*args)) or answers[-1]
args = [torch.randn(shape) for shape in ((3, 8, 5, 5), (4, 8), (4,), (8, 4), (8,))]
gate = torch.ops.kerneldna.squeeze_excite(*args)
assert gate.data_ptr() == answers[0].data_ptr()
for choice in (None, "composite"):
    with kerneldna_ops.use_backend(choice):
        torch.testing.assert_close(torch.ops.kerneldna.squeeze_excite(*args), gate)
assert len(answers) == 1
try:
    torch.ops.kerneldna.squeeze_excite(args[0], *args[1:4], args[4].double())
except RuntimeError as error:
    assert "fc2_bias must have the dtype of input" in str(error)
"""


def test_the_op_reaches_the_kernels():
    """In a process that chooses Triton and in which it is the interpreter from the start."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "KERNELDNA_BACKEND": "triton"}
    command = [sys.executable, "-W", "error", "-c", THROUGH_THE_OP]
    subprocess.run(command, env=environment, check=True)
