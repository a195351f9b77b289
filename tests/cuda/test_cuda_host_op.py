"""torch.ops.kerneldna.conv itself on the CUDA kernels' source, run on the CPU: a sample of what every backend passes.

All of it, for as long as it takes: pytest tests --backend cuda_host
"""

import os
import re
import subprocess
import sys

import pytest
import torch

from cases import build, grad_output, named
from kerneldna_ops import use_backend
from kerneldna_ops.functional import conv2d

host = pytest.importorskip("kerneldna_ops._cuda_host", reason="needs kerneldna_ops._cuda_host (`make host-kernels`)")

CASE = named("kernel_3x3_padding_1x1")
CALL = build(CASE, torch.float32)
GRAD = grad_output(CASE, torch.float32)
conv, conv_backward = torch.ops.kerneldna_cuda_host.conv, torch.ops.kerneldna_cuda_host.conv_backward

SHAPES = (
    "no_samples",
    "kernel_1x1_stride_2x2",
    "kernel_3x2_stride_2x1",
    "kernel_3x3_stride_3x2",
    "groups_3",
    "depthwise_multiplier_3",
    "depthwise_dilation",
    "tiles_cross_samples",
)


RIGHT = f"(test_output[ or test_gradients[) and ({' or '.join(SHAPES)})"
ZEROS_AND_MASKS = "zeros and depthwise or test_only and kernel_1x1"
FILES = "test_conv_forward.py", "test_conv_gradients.py", "test_properties.py"


def test_what_every_backend_passes(tests_pass_with):
    tests_pass_with({}, "--backend", "cuda_host", *FILES, "-k", f"{RIGHT} or {ZEROS_AND_MASKS} or valid_call")


CHECKS = "opcheck_of_conv[all-per_sample or opcheck_of_conv_backward[111111 or fake_tensors"
REGISTRATIONS = f"{CHECKS} or compiles_into and published or by_hand or vmap and not compile"


def test_what_runs_on_whatever_backend_was_chosen(tests_pass_with):
    """These tests call the op without naming one."""
    files = "test_registrations.py", "test_autocast.py", "test_vmap.py"
    tests_pass_with({"KERNELDNA_BACKEND": "cuda_host"}, *files, "-k", REGISTRATIONS)


SCRIPT = """
import logging, torch
logging.basicConfig(level=logging.DEBUG, format="%(message)s")
shapes = (2, 3, 5, 4), (4, 3, 3, 3), (4,), (2, 3), (2, 4), (2, 3, 3)
leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]
import kerneldna_ops
output = torch.ops.kerneldna.conv(*leaves, [1, 1], [1, 1])
output.sum().backward()
assert all(leaf.grad.isfinite().all() for leaf in leaves)
from kerneldna_ops import _cuda_host as host
assert host.launches()
host.clear_launches()
gate = torch.ops.kerneldna.squeeze_excite(leaves[0].detach(), torch.ones(2, 3), None, torch.ones(3, 2), None)
assert gate.shape == (2, 3)
assert host.launches()
"""


def test_one_variable_points_the_ops_at_the_kernels():
    environment = {**os.environ, "KERNELDNA_BACKEND": "cuda_host"}
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("cuda_host: explicit choice, the CUDA kernels' source, run on the CPU") == 3


def test_importing_the_package_does_not_import_the_module():
    code = "import sys, kerneldna_ops, kerneldna_ops.nn; assert 'kerneldna_ops._cuda_host' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


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
    return (lambda: conv(*call)), (lambda: conv_backward(torch.ones(shape), *call, mask))


def test_an_old_gpu_is_refused(launches):
    host.set_limits(capability=75)
    sentence = r"^the CUDA kernels of kerneldna_ops cannot run on cuda:0: the GPU has compute capability 7\.5, "
    for op in both_ops(CALL):
        with pytest.raises(RuntimeError, match=sentence):
            op()
    assert launches() == []


def test_a_grid_past_the_limits_is_refused(launches):
    channels = 2 * 65_536
    call = CALL._replace(
        input=torch.ones(1, channels, 1, 1),
        weight=torch.ones(channels, 2, 1, 1),
        **dict.fromkeys(("bias", "channel_attention", "filter_attention", "spatial_attention")),
        padding=(0, 0),
        groups=channels // 2,
    )
    with pytest.raises(RuntimeError, match=r"^kernel conv_gemm: a grid of blocks has .* not \(1, 65536, 1\)$"):
        conv(*call)
    assert "conv_gemm" not in [kernel for kernel, *_ in launches()]


def test_an_output_that_cannot_be_allocated(launches):
    call = CALL._replace(
        input=torch.ones(1, 1, 1, 1).expand(2**44, 1, 1, 1),
        weight=torch.ones(1, 1, 1, 1),
        **dict.fromkeys(("bias", "channel_attention", "filter_attention", "spatial_attention")),
        padding=(0, 0),
    )
    with pytest.raises(RuntimeError, match=r"you tried to allocate 70368744177664 bytes"):
        conv(*call)
    assert launches() == []


@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_a_geometry_past_32_bits_is_refused(launches, name):
    call = CALL._replace(weight=CALL.weight[..., :1, :1], spatial_attention=None, **{name: (1, 2**40)})
    sentence = f"the CUDA kernels count the elements of a {name} up to 2147483647, got {2**40}"
    for op in both_ops(call):
        with pytest.raises(RuntimeError, match=f"^kerneldna::conv(_backward)?: {sentence}$"):
            op()
    assert launches() == []


@pytest.mark.parametrize("kernel", [1, 2])
def test_the_largest_stride(kernel):
    """Nothing takes a time that grows with it, nor overflows."""
    absent = dict.fromkeys(("bias", "channel_attention", "filter_attention", "spatial_attention"))
    call = CALL._replace(weight=CALL.weight[..., :kernel, :kernel], stride=(2**31 - 1,) * 2, padding=(0, 0), **absent)
    conv_op, backward_op = both_ops(call)
    torch.testing.assert_close(conv_op(), conv2d(**call._asdict(), backend="composite"))
    torch.testing.assert_close(backward_op()[0], conv_transposed(call))


def conv_transposed(call):
    """The gradient of the input where a kernel fits into it once, and grad_output is all ones."""
    grad = torch.zeros_like(call.input)
    height, width = call.weight.shape[2:]
    grad[..., :height, :width] = call.weight.sum(0)
    return grad


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
    if tensor is None:
        return None
    storage = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    return storage[1:].as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def expanded(tensor):
    """All of its first dimension shares memory."""
    return None if tensor is None else tensor[:1].expand_as(tensor)


def with_channels_adjacent(case, dtype):
    call, grad = build(case, dtype), grad_output(case, dtype)
    last = {"memory_format": torch.channels_last}
    return call._replace(input=call.input.contiguous(**last), weight=call.weight.contiguous(**last)), grad.contiguous(
        **last
    )


WIDE = CASE.but(input=(3, 16, 5, 4), filters=24)
WIDE_DEPTHWISE = CASE.but(input=(3, 16, 5, 4), filters=16, groups=16)
every_kernel = pytest.mark.parametrize("case", [WIDE, WIDE_DEPTHWISE], ids=["gemm", "depthwise"])


def everything(call, grad):
    mask = [tensor is not None for tensor in call.tensors]
    return conv(*call), *conv_backward(grad, *call, mask)


@every_kernel
@pytest.mark.parametrize("change", [misaligned, expanded])
def test_memory_that_is_misaligned_or_shared(case, dtype, change):
    call, grad = with_channels_adjacent(case, dtype)
    tensors = [change(tensor) for tensor in (grad, *call.tensors)]
    changed = everything(call._replace(**dict(zip(call._fields, tensors[1:], strict=False))), tensors[0])
    copies = [tensor.clone(memory_format=torch.preserve_format) for tensor in tensors]
    if change is expanded:
        copies = [tensor.contiguous() for tensor in copies]
    plain = everything(call._replace(**dict(zip(call._fields, copies[1:], strict=False))), copies[0])
    for actual, expected in zip(changed, plain, strict=True):
        torch.testing.assert_close(actual, expected)
