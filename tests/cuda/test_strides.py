"""Strides that are never stepped over, as those of one sample or one pixel, must not make the kernels read number by
number: another tile, another amount of shared memory."""

import pytest
import torch

host = pytest.importorskip("host_execution._cuda_host", reason="needs `make host-kernels`")

ops = torch.ops.kerneldna_cuda_host


def launches_of(op, *args):
    host.clear_launches()
    op(*args)
    return host.launches()


def with_odd_strides(tensor, *dims):
    strides = [7 if dim in dims else stride for dim, stride in enumerate(tensor.stride())]
    assert all(tensor.size(dim) == 1 for dim in dims)
    return tensor.as_strided(tensor.shape, strides)


@pytest.mark.parametrize("attention", ["channel", "filter"])
def test_an_attention_with_one_sample(attention):
    x = torch.ones(1, 64, 3, 3, dtype=torch.float16).to(memory_format=torch.channels_last)

    def launches(factors):
        of_channels = factors if attention == "channel" else None
        of_filters = factors if attention == "filter" else None
        geometry = [1, 1], [0, 0], [1, 1], 1
        return launches_of(ops.conv, x, x.new_ones(64, 64, 1, 1), None, of_channels, of_filters, None, *geometry)

    factors = x.new_ones(1, 64)
    assert launches(with_odd_strides(factors, 0)) == launches(factors)


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((1, 256, 2, 2), [0]), ((1, 256, 1, 3), [0, 2]), ((2, 256, 3, 1), [3]), ((2, 256, 1, 1), [2, 3])],
)
def test_the_input_of_squeeze_excite(shape, dims):
    x = torch.ones(shape).to(memory_format=torch.channels_last)
    layers = torch.ones(8, 256), None, torch.ones(256, 8), None
    assert launches_of(ops.squeeze_excite, with_odd_strides(x, *dims), *layers) == launches_of(
        ops.squeeze_excite, x, *layers
    )


def test_one_pixel_is_read_alike_in_every_layout():
    x, layers = torch.ones(5, 264, 1, 1), (torch.ones(16, 264), None, torch.ones(264, 16), None)
    as_channels_last = x.as_strided(x.shape, (264, 1, 264, 264))
    assert launches_of(ops.squeeze_excite, x, *layers) == launches_of(ops.squeeze_excite, as_channels_last, *layers)
