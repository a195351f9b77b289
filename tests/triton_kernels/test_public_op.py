"""torch.ops.kerneldna.conv itself on the Triton backend, interpreted: a sample of the tests that every backend passes.

All of them, for as long as it takes: TRITON_INTERPRET=1 pytest tests --backend triton
"""

import subprocess
import sys

import pytest
import torch

from kerneldna_ops import explain_backends, use_backend
from kerneldna_ops.backends import triton as backend
from kerneldna_ops.functional import conv2d
from support.cases import build, grad_output, named

CALL = build(named("kernel_3x3_padding_1x1"), torch.float32)._asdict()

INTERPRETED = {"TRITON_INTERPRET": "1"}
# The kernels have tests of their own, in this folder: here is one of each kind of call that the backend tells apart.
SHAPES = (
    "no_samples",
    "kernel_1x1_stride_2x2",
    "kernel_3x2_stride_2x1",
    "kernel_3x3_stride_3x2",
    "-groups_3",
    "depthwise_multiplier_3",
    "depthwise_dilation",
    "tiles_cross_samples",
)


@pytest.mark.parametrize(
    ("files", "selection"),
    [
        (["op/test_conv_forward.py"], f"test_output[ and ({' or '.join(SHAPES)})"),
        pytest.param(
            ["op/test_conv_gradients.py"],
            f"test_gradients[ and ({' or '.join(SHAPES[:-1])}) or zeros and (-depthwise- or -kernel_1x1-)"
            " or test_only and -kernel_1x1",
            marks=pytest.mark.long,
        ),
        pytest.param(["op/test_properties.py"], "valid_call", marks=pytest.mark.long),
    ],
    ids=["output", "gradients", "random calls"],
)
def test_what_every_backend_passes(tests_pass_with, files, selection):
    tests_pass_with(INTERPRETED, "--backend", "triton", *files, "-k", selection)


@pytest.mark.usefixtures("interpreted", "threads")
@pytest.mark.parametrize("name", ["kernel_1x1", "depthwise"])
def test_opcheck(name):
    case, ops = named(name), torch.ops.kerneldna
    call, grad = build(case, torch.float32), grad_output(case, torch.float32)
    leaves = [part.requires_grad_() if isinstance(part, torch.Tensor) else part for part in call]
    with use_backend("triton"):
        torch.library.opcheck(ops.conv.default, leaves)
        torch.library.opcheck(ops.conv_backward.default, (grad, *leaves, [True] * 6))


@pytest.mark.usefixtures("interpreted", "threads")
def test_autocast():
    half = {name: value.half() for name, value in CALL.items() if isinstance(value, torch.Tensor)}
    with use_backend("triton"):
        with torch.autocast("cpu", dtype=torch.float16):
            output = conv2d(**CALL)
        torch.testing.assert_close(output, conv2d(**CALL | half), rtol=0, atol=0)


SCRIPT = """
import logging, torch
logging.basicConfig(level=logging.DEBUG, format="%(message)s")
shapes = (2, 3, 5, 4), (4, 3, 3, 3), (4,), (2, 3), (2, 4), (2, 3, 3)
leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]
import kerneldna_ops
output = torch.ops.kerneldna.conv(*leaves, [1, 1], [1, 1])
output.sum().backward()
assert all(leaf.grad.isfinite().all() for leaf in leaves)
"""


def test_one_variable_points_the_op_at_the_kernels(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("KERNELDNA_BACKEND", "triton")
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert run.stderr.count("triton: explicit choice, fused Triton kernels, interpreted") == 2


def test_importing_the_package_does_not_import_triton():
    code = "import sys, kerneldna_ops, kerneldna_ops.nn; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_on_the_cpu_it_says_that_it_only_runs_interpreted():
    assert explain_backends(**CALL)["triton"] == (
        False,
        "input is on the CPU, where Triton only runs interpreted (TRITON_INTERPRET=1)",
    )
    with pytest.raises(RuntimeError, match=r"^backend 'triton' cannot run this call: input is on the CPU"):
        conv2d(**CALL, backend="triton")


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (torch.float64, "it has no kernel for float64"),
        (torch.bfloat16, "Triton's interpreter miscalculates bfloat16"),
    ],
    ids=str,
)
def test_dtypes_without_a_kernel(refused, reason):
    call = build(named("kernel_3x3_padding_1x1"), refused)._asdict()
    assert explain_backends(**call)["triton"] == (False, reason)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"input": torch.empty(1, 1, 40, 40), "weight": torch.empty(1, 1, 33, 2)},
            "its kernels take at most 32 taps a side, not [33, 2]",
        ),
        (
            {"input": torch.empty(1, 70000, 2, 2), "weight": torch.empty(70000, 1, 1, 1), "groups": 70000},
            "groups times the stride's area is 70000, over 65535",
        ),
        (
            {"input": torch.empty(1, 1, 1, 1).expand(2**16, 1, 2**8, 2**8), "weight": torch.empty(1, 1, 1, 1)},
            "4294967296 pixels, its kernels count to 2147483647",
        ),
        (
            {"input": torch.empty(1, 1, 1, 1).expand(1, 2**16, 2**8, 2**8), "weight": torch.empty(1, 2**16, 1, 1)},
            "4294967296 elements in a sample, its kernels count to 2147483647",
        ),
    ],
    ids=["taps", "groups", "pixels", "sample"],
)
def test_sizes_without_a_kernel(change, reason):
    assert explain_backends(**change)["triton"] == (False, reason)


@pytest.mark.usefixtures("interpreted")
def test_old_gpus_and_old_tritons_are_refused(monkeypatch):
    input = CALL["input"]
    assert backend.runs_on(input) == (True, "fused Triton kernels, interpreted")
    monkeypatch.setattr(backend, "TRITON_FLOOR", (99, 0))
    backend._triton_missing.cache_clear()
    runs, reason = backend.runs_on(input)
    backend._triton_missing.cache_clear()
    assert not runs
    assert reason.endswith("is installed, 99.0 or newer is needed")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert backend.runs_on(_OnAGpu()) == (False, "the GPU has compute capability 7.5, 8.0 is needed")


class _OnAGpu:
    device = torch.device("cuda", 0)
    dtype = torch.float16
