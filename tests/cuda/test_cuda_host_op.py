"""torch.ops.kerneldna.conv itself on the CUDA kernels' source, run on the CPU: a sample of what every backend passes.

All of it, for as long as it takes: pytest tests --backend cuda_host
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from host_execution import cuda_host

from kerneldna_ops import use_backend
from kerneldna_ops.backends import composite
from kerneldna_ops.call import BackwardCall
from kerneldna_ops.functional import conv2d
from kerneldna_ops.nn import ChildConv2d
from support import truths
from support.cases import build, grad_output, named

host = pytest.importorskip("host_execution._cuda_host", reason="needs `make host-kernels`")

CASE = named("eights")
CALL = build(CASE, torch.float16)
conv, conv_backward = torch.ops.kerneldna_cuda_host.conv, torch.ops.kerneldna_cuda_host.conv_backward

FILES = "op/test_conv_forward.py", "op/test_conv_gradients.py"


def test_what_every_backend_passes(tests_pass_with):
    right = "(test_output[ or test_gradients[ or test_only) and eights"
    tests_pass_with({}, "--backend", "cuda_host", *FILES, "-k", right)


@pytest.mark.parametrize("case", [CASE, named("eights_depthwise")], ids=str)
def test_opcheck(case):
    call = [part.requires_grad_() if isinstance(part, torch.Tensor) else part for part in build(case, torch.float16)]
    grad, mask = grad_output(case, torch.float16), [True] * 6
    with use_backend("cuda_host"):
        torch.library.opcheck(torch.ops.kerneldna.conv.default, call)
        torch.library.opcheck(torch.ops.kerneldna.conv_backward.default, (grad, *call, mask))


SCRIPT = """
import logging, torch
logging.basicConfig(level=logging.DEBUG, format="%(message)s")
shapes = (2, 8, 5, 4), (16, 8, 3, 3), (16,), (2, 8), (2, 16), (2, 3, 3)
leaves = [torch.randn(shape, dtype=torch.float16, requires_grad=True) for shape in shapes]
import host_execution, kerneldna_ops
kerneldna_ops.use_backend("cuda_host").__enter__()
output = torch.ops.kerneldna.conv(*leaves, [1, 1], [1, 1])
output.sum().backward()
assert all(leaf.grad.isfinite().all() for leaf in leaves)
from host_execution import _cuda_host as host
assert host.launches()
host.clear_launches()
weights = torch.ones(2, 8, dtype=torch.float16), torch.ones(8, 2, dtype=torch.float16)
gate = torch.ops.kerneldna.squeeze_excite(leaves[0].detach(), weights[0], None, weights[1], None)
assert gate.shape == (2, 8)
assert host.launches()
"""


def test_a_script_is_pointed_at_the_kernels_by_two_lines():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("cuda_host: explicit choice, the CUDA kernels' source, run on the CPU") == 3


def test_the_package_knows_nothing_of_the_backend():
    code = "import kerneldna_ops; assert 'cuda_host' not in kerneldna_ops.backends.NAMES"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_an_evaluated_network_in_channels_last_copies_no_weight_in_a_call(memory_format):
    """The kernels take the parent's weight where it stands; one in NCHW is copied in each call, as nothing is kept."""
    parent = torch.nn.Conv2d(16, 24, 3, padding=1).half().to(memory_format=memory_format)
    child = ChildConv2d(parent).half().eval()
    input = torch.ones(2, 16, 5, 4, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    with use_backend("cuda_host"), torch.no_grad():
        child(input)
        host.clear_launches()
        with torch.profiler.profile(record_shapes=True) as profile:
            child(input)
    assert "conv_gemm" in [kernel for kernel, *_ in host.launches()]
    cloned = [
        list(parent.weight.shape) in event.input_shapes for event in profile.events() if event.name == "aten::clone"
    ]
    assert any(cloned) == (memory_format is torch.contiguous_format)


# Refused before anything is launched


@pytest.fixture
def launches():
    """What was launched in the test so far; the GPU is put back afterwards."""
    host.clear_launches()
    yield host.launches
    host.set_limits()


def both_ops(call):
    mask = [tensor is not None for tensor in call.tensors]
    shape = (len(call.input), len(call.weight), *conv2d(**call._asdict(), backend="composite").shape[2:])
    grad = torch.ones(shape, dtype=call.input.dtype)
    return (lambda: conv(*call)), (lambda: conv_backward(grad, *call, mask))


def test_an_old_gpu_is_refused(launches):
    host.set_limits(capability=75)
    sentence = r"^the CUDA kernels of kerneldna_ops cannot run on cuda:0: the GPU has compute capability 7\.5, "
    for op in both_ops(build(named("eights_depthwise"), torch.float16)):
        with pytest.raises(RuntimeError, match=sentence):
            op()
    assert launches() == []


ABSENT = dict.fromkeys(("bias", "channel_attention", "filter_attention", "spatial_attention"))


def call_of(input, weight, dtype=torch.float16, **geometry):
    call = CALL._replace(input=torch.ones(input, dtype=dtype), weight=torch.ones(weight, dtype=dtype), **ABSENT)
    return call._replace(**{"padding": (0, 0), **geometry})


# What composite does as well: cuda/conv_refusal.h
REFUSED = {
    "float64": (call_of((1, 8, 4, 4), (8, 8, 1, 1), torch.float64), "it has no kernel for float64"),
    "float32": (call_of((1, 8, 4, 4), (8, 8, 1, 1), torch.float32), "its kernels for float32 are depthwise ones"),
    "channels": (
        call_of((1, 12, 4, 4), (8, 12, 1, 1)),
        "it reads 8 channels at a time, and the call has 12 channels and 8 filters",
    ),
    "filters": (
        call_of((1, 8, 4, 4), (3, 8, 1, 1)),
        "it reads 8 channels at a time, and the call has 8 channels and 3 filters",
    ),
    "channels of a group": (
        call_of((1, 80, 4, 4), (64, 20, 1, 1), groups=4),
        "it reads 8 channels at a time, and a group has 20 channels and 16 filters",
    ),
    "small groups": (
        call_of((1, 96, 4, 4), (128, 24, 1, 1), groups=4),
        "a group has 24 channels and 32 filters, and below 32 of either its tiles of 64 are mostly empty",
    ),
    "grid": (
        call_of((1, 32 * 65536, 1, 1), (32 * 65536, 32, 1, 1), groups=65536),
        "groups times blocks of 64 filters is 65536, over 65535",
    ),
    "depthwise channels": (
        call_of((1, 12, 4, 4), (12, 1, 3, 3), groups=12),
        "it reads 8 channels at a time, and the call has 12 channels and 12 filters",
    ),
    "depthwise multiplier": (
        call_of((1, 8, 4, 4), (16, 1, 3, 3), groups=8),
        "its depthwise kernels make one output channel of each input channel, not 2",
    ),
    "depthwise dilation": (
        call_of((1, 8, 9, 9), (8, 1, 3, 3), groups=8, dilation=(2, 1)),
        "its depthwise kernels are not dilated",
    ),
    "depthwise width": (
        call_of((1, 8, 4, 4), (8, 1, 3, 2), groups=8),
        "its depthwise kernels are 3 or 5 wide with a stride of 1 or 2, or 7 wide with a stride of 1, and at most 8 "
        "high, not [3, 2] with a stride of 1",
    ),
    "depthwise stride": (
        call_of((1, 8, 9, 9), (8, 1, 7, 7), groups=8, stride=(1, 2)),
        "its depthwise kernels are 3 or 5 wide with a stride of 1 or 2, or 7 wide with a stride of 1, and at most 8 "
        "high, not [7, 7] with a stride of 2",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_composite_does_as_well_is_refused(launches, what):
    """By both ops, and by the backends, which name the same reason."""
    call, reason = REFUSED[what]
    for op in both_ops(call):
        with pytest.raises(RuntimeError, match=f"kernels do not take this call: {re.escape(reason)}$"):
            op()
    assert launches() == []
    runs, said = cuda_host.can_run(call)
    assert (runs, said) == (False, reason)


def test_the_smallest_groups_that_are_taken():
    call = call_of((1, 64, 4, 4), (64, 32, 1, 1), groups=2)
    torch.testing.assert_close(conv(*call), torch.full((1, 64, 4, 4), 32.0, dtype=torch.float16))


def test_gradients_are_made_of_depthwise_convolutions_alone(launches):
    """The backend has composite make the others."""
    leaves = truths.map_tensors(lambda tensor: tensor.clone().requires_grad_(), CALL)
    output = conv2d(**leaves._asdict(), backend="cuda_host")
    assert "conv_gemm" in [kernel for kernel, *_ in launches()]
    host.clear_launches()
    grads = torch.autograd.grad(output, leaves.tensors[:6], torch.ones_like(output))
    expected = composite.conv_backward(BackwardCall.of(torch.ones_like(output), *CALL, [True] * 6))
    assert all(map(torch.equal, grads, expected[:6]))
    assert launches() == []
    sentence = "kerneldna::conv_backward: the CUDA kernels make gradients of depthwise convolutions alone"
    with pytest.raises(RuntimeError, match=f"^{sentence}$"):
        conv_backward(torch.ones_like(output), *CALL, [True] * 6)


def test_an_output_that_cannot_be_allocated(launches):
    call = call_of((1, 8, 1, 1), (8, 8, 1, 1))
    call = call._replace(input=call.input.expand(2**42, 8, 1, 1))
    with pytest.raises(RuntimeError, match=r"you tried to allocate 70368744177664 bytes"):
        conv(*call)
    assert launches() == []


def test_a_dilation_past_32_bits_is_refused(launches):
    call = CALL._replace(weight=CALL.weight[..., :1, :1], spatial_attention=None, dilation=(1, 2**40))
    sentence = f"the CUDA kernels do not take this call: {2**40} pixels of stride or dilation, its kernels count to"
    for op in both_ops(call):
        with pytest.raises(RuntimeError, match=f"^kerneldna::conv(_backward)?: {sentence} 2147483647$"):
            op()
    assert launches() == []


@pytest.mark.parametrize("kernel", [1, 2])
def test_the_largest_stride(kernel):
    """Nothing takes a time that grows with it, nor overflows."""
    call = CALL._replace(weight=CALL.weight[..., :kernel, :kernel], stride=(2**31 - 1,) * 2, padding=(0, 0), **ABSENT)
    torch.testing.assert_close(conv(*call), conv2d(**call._asdict(), backend="composite"))


def test_tensors_on_different_devices():
    call = CALL._replace(weight=CALL.weight.to("meta"))
    sentence = "weight must be on the device of input (cpu), got meta"
    with pytest.raises(ValueError, match=f"^{re.escape(f'conv2d: {sentence}')}$"):
        conv2d(**call._asdict(), backend="cuda_host")
    with use_backend("cuda_host"), pytest.raises(RuntimeError, match=f"^{re.escape(f'kerneldna::conv: {sentence}')}$"):
        torch.ops.kerneldna.conv(*call)


# Tensors that lie oddly in memory


def misaligned(tensor):
    """At an address that is no multiple of more than the size of an element."""
    storage = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    return storage[1:].as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def expanded(tensor):
    """All of its first dimension shares memory."""
    return tensor[:1].expand_as(tensor)


def with_channels_adjacent(case, dtype):
    call, grad = build(case, dtype), grad_output(case, dtype)
    last = {"memory_format": torch.channels_last}
    return call._replace(input=call.input.contiguous(**last), weight=call.weight.contiguous(**last)), grad.contiguous(
        **last
    )


every_kernel = pytest.mark.parametrize("case", [CASE, named("eights_depthwise")], ids=["gemm", "depthwise"])


def everything(call, grad):
    """What the CUDA kernels make of it: the gradients of a dense convolution are composite's."""
    if not call.depthwise:
        return [conv(*call)]
    mask = [tensor is not None for tensor in call.tensors]
    return conv(*call), *cuda_host.conv_backward(BackwardCall(grad, call, mask))


@every_kernel
@pytest.mark.parametrize("change", [misaligned, expanded])
def test_memory_that_is_misaligned_or_shared(case, half, change):

    def copy(tensor):
        copied = tensor.clone(memory_format=torch.preserve_format)
        return copied.contiguous() if change is expanded else copied

    call, grad = with_channels_adjacent(case, half)
    call, grad = truths.map_tensors(change, call), change(grad)
    changed, plain = everything(call, grad), everything(truths.map_tensors(copy, call), copy(grad))
    for actual, expected in zip(changed, plain, strict=True):
        torch.testing.assert_close(actual, expected)
