"""What the library asks of a GPU and its driver before it launches anything, and what it makes of the answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

host = pytest.importorskip("host_execution._cuda_host", reason="needs `make host-kernels`")

conv = torch.ops.kerneldna_cuda_host.conv
squeeze_excite = torch.ops.kerneldna_cuda_host.squeeze_excite

REFUSALS = {
    "an old GPU": ({"capability": 75}, "the GPU has compute capability 7.5, 8.0 is needed"),
    "a GPU that nothing was compiled for": (
        {"capability": 110, "error": 209},
        "the GPU has compute capability 11.0, and the library was compiled for 8.0 9.0a",
    ),
    "an old driver": (
        {"driver": 12080},
        "the library was built with CUDA 13.0, and the NVIDIA driver is for CUDA 12.8 at most",
    ),
    "no driver": ({"driver": 0}, "the library was built with CUDA 13.0, and there is no NVIDIA driver"),
    "another error": ({"error": 222}, "the driver refuses its kernels: the error that the test asked for"),
}


@pytest.mark.parametrize("gpu", REFUSALS)
def test_a_gpu_that_cannot_run_the_kernels_is_refused_before_any_launch(gpu):
    limits, refusal = REFUSALS[gpu]
    host.set_limits(**limits)
    assert host.refusal() == refusal
    for op in (one_conv, one_squeeze_excite):
        with pytest.raises(RuntimeError) as error:
            op()
        assert str(error.value) == f"the CUDA kernels of kerneldna_ops cannot run on cuda:0: {refusal}"
    assert host.launches() == []


def test_a_gpu_that_can():
    for capability, compiled in ((80, 80), (86, 80), (90, 90), (103, 100), (120, 120), (110, 100)):
        host.set_limits(capability=capability, compiled=compiled)
        assert host.refusal() == ""


def test_a_lack_of_memory_is_no_refusal():
    with pytest.raises(RuntimeError, match=r"^the driver could not load the CUDA kernels: the error "):
        host.set_limits(error=2)


def one_conv(batch=1, side=16, channels=64, filters=128, dtype=torch.float16):
    x = torch.ones(batch, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
    c = torch.ones(batch, channels, dtype=dtype)
    return conv(x, x.new_ones(filters, channels, 1, 1), None, c, None, None, [1, 1], [0, 0], [1, 1], 1)


def one_squeeze_excite():
    return squeeze_excite(torch.ones(1, 8, 2, 2), torch.ones(2, 8), None, torch.ones(8, 2), None)


WGMMA_BYTES = 100 << 10  # more than any other tile takes


@pytest.mark.parametrize(("capability", "compiled"), [(90, 80), (90, 89), (100, 90), (120, 90)])
def test_products_of_sm_90a_are_chosen_only_where_they_were_compiled_for(capability, compiled):
    """Elsewhere their kernel is a trap: code for 8.0 that an H100's driver compiled, or for 9.0 on newer GPUs."""

    def sizes():
        host.clear_launches()
        one_conv(batch=2, channels=128, filters=208)
        return [size for kernel, _, _, size in host.launches() if kernel == "conv_gemm"]

    host.set_limits(1, 227 << 10, 90)
    assert sizes()[0] > WGMMA_BYTES
    host.set_limits(1, 227 << 10, capability, compiled)
    assert sizes()[0] < WGMMA_BYTES


@pytest.mark.parametrize(
    ("capability", "compiled", "overlaps"), [(80, 80, False), (90, 80, False), (90, 90, True), (120, 100, True)]
)
def test_launches_overlap_only_where_the_code_can_wait(capability, compiled, overlaps):
    host.set_limits(1000, 227 << 10, capability, compiled)
    one_conv(channels=512, side=4, dtype=torch.bfloat16)
    assert "conv_gemm_finish" in [kernel for kernel, *_ in host.launches()]
    assert host.overlapping_launches() == ["conv_gemm_finish"] * overlaps


TWO_SIZES = """
import torch
from host_execution import _cuda_host as host
from test_device import one_conv

host.set_limits(multiprocessors=1)
for batch, side in ((1, 16), (64, 2), (1, 16)):
    one_conv(batch, side)
first, second, third = (size for _, _, _, size in host.launches())
assert first == third != second and min(first, second) > 48 << 10, host.launches()
print([size for _, size in host.allowed_shared_bytes()])
"""


def test_a_kernel_is_allowed_all_shared_memory_and_once():
    """Not what its launch needs: between that and the launch another thread could ask for less."""
    folders = [str(Path(host.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", TWO_SIZES], env=environment, capture_output=True, text=True)
    assert done.stdout == f"[{163 << 10}]\n", done.stderr
