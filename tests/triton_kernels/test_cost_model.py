"""The analytic model: it counts tiles and bytes right, never calls more work faster, and prefers what it should."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kerneldna_ops.triton_kernels.config import Config
from kerneldna_ops.triton_kernels.cost_model import (
    DEVICES,
    box,
    device_of,
    pixel_tiles,
    predict,
)
from kerneldna_ops.triton_kernels.problem import Problem

H200 = DEVICES["H200"]
SHAPES = {"64@56": (64, 56), "128@28": (128, 28), "256@14": (256, 14), "512@7": (512, 7)}
# More of any of these is more work for tiles of flattened pixels.
SIZES = ("batch", "in_channels", "out_channels", "height", "width")

devices = st.sampled_from(list(DEVICES.values()))
configs = st.builds(
    Config,
    form=st.just("P"),
    block_m=st.sampled_from([64, 128, 256]),
    block_n=st.sampled_from([64, 128, 256]),
    block_k=st.sampled_from([32, 64]),
    num_warps=st.sampled_from([4, 8]),
    num_stages=st.integers(2, 5),
    split_k=st.sampled_from([1, 2, 4, 8]),
)
problems = st.builds(
    Problem,
    batch=st.integers(1, 256),
    in_channels=st.integers(1, 1024),
    out_channels=st.integers(1, 1024),
    height=st.integers(3, 64),
    width=st.integers(3, 64),
    stride=st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    has_g=st.booleans(),
)


def square(shape, batch, **changes):
    channels, size = SHAPES[shape]
    return Problem(batch, channels, channels, size, size, **changes)


@pytest.mark.parametrize(
    ("shape", "batch", "block_m", "tiles"),
    [("256@14", 128, 128, 196), ("512@7", 128, 128, 49), ("512@7", 128, 64, 98), ("256@14", 32, 64, 98)],
)
def test_tiles_of_pixels_hold_those_of_several_samples(shape, batch, block_m, tiles):
    assert pixel_tiles(square(shape, batch), Config(block_m=block_m)) == tiles


def test_a_wave_takes_as_long_for_one_tile_as_for_all_multiprocessors():
    waves = [predict(Problem(1, 256, 64, 14, 14), Config(block_m=64, block_n=64), H200)]
    for batch, count in ((43, 1), (44, 2)):
        problem = Problem(batch, 256, 64, 14, 14)
        assert math.ceil(pixel_tiles(problem, Config(block_m=64)) / H200.multiprocessors) == count
        waves.append(predict(problem, Config(block_m=64, block_n=64), H200))
    assert waves[0] == waves[1] < waves[2]


@pytest.mark.parametrize(
    ("shape", "form", "block_m", "expected"),
    [
        ("64@56", "M", 128, (2, 8, 8)),
        ("128@28", "M", 128, (8, 4, 4)),
        ("256@14", "M", 128, (32, 2, 2)),
        ("512@7", "M", 128, (128, 1, 1)),
        ("512@7", "X", 128, (128, 1, 1)),
        ("128@28", "S", 128, (1, 4, 32)),
        ("64@56", "S", 256, (1, 4, 64)),
        ("256@14", "S", 256, (1, 16, 16)),
    ],
)
def test_boxes_of_the_tma_forms(shape, form, block_m, expected):
    assert box(square(shape, 128), Config(form, block_m=block_m)) == expected


def test_form_x_leaves_out_the_taps_on_the_padding():
    """361 of 441 at 7x7, so that a tile takes 7.4 of 9 taps on average, rounded up to whole steps of a block."""
    problem = square("512@7", 128)
    x, m = (predict(problem, Config(form), dataclasses.replace(H200, l2=1e9)) for form in "XM")
    assert x / m == pytest.approx(361 / 441, abs=0.03)


@given(problem=problems, config=configs, device=devices, size=st.sampled_from(SIZES), more=st.integers(1, 64))
def test_more_work_is_never_predicted_faster(problem, config, device, size, more):
    larger = dataclasses.replace(problem, **{size: getattr(problem, size) + more})
    assert predict(larger, config, device) >= predict(problem, config, device)


@given(problem=problems, config=configs, device=devices, form=st.sampled_from("PSMX"))
def test_a_scale_on_the_reduction_axis_never_saves_time(problem, config, device, form):
    config = dataclasses.replace(config, form=form)
    plain = dataclasses.replace(problem, has_g=False)
    scaled = dataclasses.replace(problem, has_g=True)
    assert predict(scaled, config, device) >= predict(plain, config, device)


@given(problem=problems, config=configs, device=devices)
def test_nothing_beats_the_tensor_cores(problem, config, device):
    rate = device.tensor * 1e6 / (2 if problem.dtype == torch.float32 else 1)
    assert predict(problem, config, device) > 2 * problem.macs / rate


@pytest.mark.parametrize("device", ["A100", "H100", "H200", "B200"])
def test_split_reduction_at_512_7_batch_32(device):
    candidates = [Config(block_m=m, block_n=n, split_k=k) for m, n in [(128, 256), (128, 128)] for k in (1, 2, 4, 8)]
    problem = square("512@7", 32)
    assert min(candidates, key=lambda config: predict(problem, config, DEVICES[device])).split_k > 1


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_no_split_where_tiles_fill_the_device(device):
    times = {k: predict(square("128@28", 256), Config(split_k=k), device) for k in (8, 4, 2, 1)}
    assert min(times, key=times.__getitem__) == 1


def test_float32_is_slower_than_half_precision():
    for device in DEVICES.values():
        single = dataclasses.replace(square("256@14", 128), dtype=torch.float32)
        assert predict(single, Config(block_k=32), device) > predict(square("256@14", 128), Config(), device)


def test_exact_float32_runs_beside_the_tensor_cores():
    """19.5 TFLOP/s of an A100, 67 of an H100, times what they sustain of their tensor cores' rates."""
    for name, teraflop in (("A100", 19.5), ("H100", 67)):
        exact = dataclasses.replace(square("256@14", 128), dtype=torch.float32, exact=True)
        rate = 2e-6 * exact.macs / predict(exact, Config(block_k=32), DEVICES[name])
        assert 0.6 * teraflop < rate < teraflop


@pytest.mark.parametrize(
    ("name", "arch", "multiprocessors", "like"),
    [
        ("NVIDIA H200", 90, 132, "H200"),
        ("NVIDIA A100-SXM4-80GB", 80, 108, "A100"),
        ("NVIDIA H100 PCIe", 90, 114, "H100"),
        ("NVIDIA L4", 89, 58, "RTX 4090"),
        ("NVIDIA RTX PRO 6000 Blackwell", 120, 188, "RTX 4090"),
        ("NVIDIA GB300", 103, 148, "B200"),
    ],
)
def test_devices_as_the_driver_calls_them(name, arch, multiprocessors, like):
    device, known = device_of(name, arch, multiprocessors), DEVICES[like]
    assert (device.name, device.arch, device.multiprocessors) == (name, arch, multiprocessors)
    assert device.tensor == pytest.approx(known.tensor * multiprocessors / known.multiprocessors)
    assert device.clock == pytest.approx(known.clock)
    assert device.memory / device.l2 == pytest.approx(known.memory / known.l2)


def test_importing_the_model_imports_no_triton():
    code = "import sys, kerneldna_ops.triton_kernels.cost_model; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
