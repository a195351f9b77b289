"""Launchers: what Triton compiled is called directly from the second time on, with the arguments that Triton takes."""

import pytest
import torch

from benchmarks.launch_overhead import Kernel
from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.conv_product import product
from kerneldna_ops.triton_kernels.launch import Launcher, launch, recording
from kerneldna_ops.triton_kernels.operands import ABSENT, Scale
from kerneldna_ops.triton_kernels.problem import Problem
from support.outside_interpreter import run

X, Y = torch.zeros(8), torch.zeros(8)
NAMES = ["x", "bias", "y", "N", "C", "BLOCK", "FLAG"]
NAMED = {"FLAG": True, "BLOCK": 16, "num_warps": 4}


@pytest.fixture
def kernel():
    return Kernel(NAMES)


def test_the_second_launch_is_direct(kernel):
    launcher = Launcher(kernel, (3,), 5, 7, **NAMED)
    for _ in range(3):
        launcher(X, None, Y)
    assert kernel.searched == [((3,), (X, None, Y, 5, 7), NAMED)]
    assert kernel.direct == [((3, 1, 1), (X, None, Y, 5, 7, 16, True))] * 2


def test_a_slice_is_searched_for_each_time(kernel):
    """Triton compiles for addresses of a multiple of 16 or for others."""
    launcher = Launcher(kernel, (3, 1, 1), 5, 7, **NAMED)
    for x in (X[1:], X, X[1:], X):
        launcher(x, None, Y)
    assert [args[0].data_ptr() for _, args, _ in kernel.searched] == [X[1:].data_ptr(), X.data_ptr(), X[1:].data_ptr()]
    assert [args[0].data_ptr() for _, args in kernel.direct] == [X.data_ptr()]


def test_an_empty_grid_launches_nothing(kernel):
    Launcher(kernel, (3, 0, 1), 5, 7, **NAMED)(X, None, Y)
    assert not kernel.searched


def test_a_launch_is_recorded_even_if_it_would_be_direct(kernel):
    launcher = Launcher(kernel, (3,), 5, 7, **NAMED)
    launcher(X, None, Y)
    with recording() as launches:
        launcher(X, None, Y)
    assert not kernel.direct
    (recorded,) = launches
    assert recorded.args == {"x": X, "bias": None, "y": Y, "N": 5, "C": 7, "FLAG": True, "BLOCK": 16}
    assert recorded.options == {"num_warps": 4}


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((X, None, Y, 5, 8), {}),
        ((X, X, Y, 5, 7), {}),
        ((X.half(), None, Y, 5, 7), {}),
        ((X, None, Y, 5, 7), {"BLOCK": 32}),
        ((X, None, Y, 5, 7), {"num_warps": 8}),
    ],
    ids=["size", "None", "dtype", "constexpr", "option"],
)
def test_launches_that_differ_share_no_launcher(kernel, args, named):
    for _ in range(2):
        launch(kernel, (3,), X, None, Y, 5, 7, **NAMED)
        launch(kernel, (3,), *args, **NAMED | named)
    assert len(kernel.searched) == len(kernel.direct) == 2


STATIC = Scale(torch.ones(8))


@pytest.mark.parametrize(
    "other",
    [{"f": ABSENT}, {"g": ABSENT}, {"x": X.half()}, {"has_bias": True}, {"has_dot": True}, {"transposed": True}],
    ids=lambda other: next(iter(other)),
)
def test_products_that_triton_compiles_otherwise_are_not_shared(other):
    """A static factor and none have the same strides."""
    operands = {"problem": Problem(1, 8, 8, 4, 4), "config": Config(), "x": X, "g": STATIC, "f": STATIC}
    assert product(**operands) is product(**operands | {"x": torch.empty(8), "f": Scale(torch.empty(8))})
    assert product(**operands) is not product(**operands | other)


def test_the_overhead_is_measured_with_kernels_as_a_gpu_has_them():
    done = run("-m", "benchmarks.launch_overhead")
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "F.conv2d on the CPU",
        "float32, channels_last",
        "float32, channels_last, inference mode",
        "float32, NCHW",
        "float16, channels_last",
    ]
