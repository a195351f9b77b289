"""The CUDA kernels of squeeze_excite, run on the CPU: both schedules, each way to walk the input, any order of threads.

What holds for every kernel stands in tests/test_squeeze_excite.py, which runs here on these kernels, too.
"""

import os

import pytest
import torch

from support.gates import INVALID, VALID, arguments, check, plain
from support.layouts import IMAGES, WEIGHTS, channels_last, sliced

host = pytest.importorskip("host_execution._cuda_host", reason="needs `make host-kernels`")
squeeze_excite = torch.ops.kerneldna_cuda_host.squeeze_excite

ONE, TWO = ["squeeze_excite_kernel"], ["squeeze_kernel", "excite_kernel"]
LAYOUTS = ["contiguous", "channels_last", "sliced", "channels_last_sliced", "expanded_pixels"]
# [N, C, H, W] and R. Two launches: weights beyond what one block reads, a map beyond it.
IN_ONE = [
    ((1, 37, 5, 3), 1),
    ((2, 40, 7, 7), 3),
    ((5, 264, 1, 1), 16),
    ((1, 256, 7, 7), 16),
    ((40, 8, 5, 3), 3),
    ((2, 16, 14, 14), 129),
    ((3, 3, 14, 14), 16),
]
IN_TWO = [((2, 520, 7, 5), 129), ((5, 1003, 1, 1), 130), ((1, 64, 45, 41), 16), ((3, 40, 61, 45), 3)]
# Of a GPU with so many multiprocessors; with few, samples share what a block reads of the weights.
MANY, FEW = 132, 4


pytestmark = pytest.mark.usefixtures("poisoned_memory")


def launched():
    """The kernels since the last call, and their grids."""
    kernels = [kernel for kernel, *_ in host.launches()]
    grids = [grid[0] for _, grid, *_ in host.launches()]
    host.clear_launches()
    return kernels, grids


def laid_out(args, layout):
    return [IMAGES[layout](args[0]), *args[1:]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "hidden"), IN_ONE, ids=str)
def test_one_launch(shape, hidden, layout, stored):
    check(squeeze_excite, laid_out(arguments(shape, stored, hidden), layout))
    assert launched() == (ONE, [shape[0]])


@pytest.mark.parametrize("multiprocessors", [MANY, FEW])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "hidden"), IN_TWO, ids=str)
def test_two_launches(shape, hidden, layout, multiprocessors, stored):
    host.set_limits(multiprocessors)
    check(squeeze_excite, laid_out(arguments(shape, stored, hidden), layout))
    assert launched()[0] == TWO


@pytest.mark.parametrize("batch", [1, 3, 4, 5, 9])
def test_samples_that_share_blocks(batch, stored):
    """Groups of four, the last of them not full; the same in another number of blocks."""
    args = arguments((batch, 520, 2, 3), stored, 129)
    host.set_limits(FEW)
    check(squeeze_excite, args)
    group = 4
    slabs = 9
    kernels, (squeezing, exciting) = launched()
    assert kernels == TWO
    assert squeezing == -(-batch // group) * slabs
    assert exciting <= max(FEW, -(-batch // group))
    host.set_limits(1000)
    check(squeeze_excite, args)
    assert launched() == (TWO, [batch * slabs, batch * slabs])


@pytest.mark.parametrize(("batch", "hidden"), [(1, 1), (7, 3)])
def test_more_channels_than_a_block_has_room_for(batch, hidden, stored):
    host.set_limits(FEW, 99 << 10)
    check(squeeze_excite, arguments((batch, 24000, 1, 1), stored, hidden))
    assert launched()[0] == TWO


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_error_of_the_mean_does_not_grow_with_the_picture_of_one_block(layout):
    """Adding the same value again and again rounds to the same side: the worst case of a running sum."""
    host.set_limits(1)
    input = IMAGES[layout](torch.full((1, 2, 1100, 1000), 0.1)).expand(4, -1, -1, -1)
    gate = squeeze_excite(input, torch.tensor([[16.0, 0.0]]), None, torch.tensor([[1.0], [0.0]]), None)
    assert launched() == (TWO, [1, 1])
    torch.testing.assert_close(gate, torch.tensor([[1.6, 0.0]]).sigmoid().expand(4, 2), rtol=2e-6, atol=0)


def test_a_large_map_is_shared_by_blocks():
    args = laid_out(arguments((1, 64, 80, 81), torch.bfloat16, 16), "channels_last")
    grids = []
    for multiprocessors in (1, 4, MANY):
        host.set_limits(multiprocessors)
        check(squeeze_excite, args)
        grids.append(launched()[1][0])
    assert grids[:2] == [4, 16]
    assert grids[2] > 16
    assert 80 * 81 * 64 * 2 // grids[2] >= 16 * 1024  # bytes, which make a block worth its while


@pytest.mark.parametrize(("shape", "hidden"), [((2, 40, 7, 5), 10), ((5, 520, 3, 3), 129)], ids=str)
@pytest.mark.parametrize("absent", [(2,), (4,), (2, 4)], ids=["fc1_bias", "fc2_bias", "both"])
def test_without_bias(absent, shape, hidden):
    args = arguments(shape, torch.float32, hidden)
    for i in absent:
        args[i] = None
    check(squeeze_excite, args)


@pytest.mark.parametrize("layout", WEIGHTS)
@pytest.mark.parametrize("channels", [24, 520])
def test_weights_of_any_layout(channels, layout, stored):
    args = arguments((2, channels, 2, 2), stored, 130)
    args[1], args[3] = (WEIGHTS[layout](args[i][..., None, None]) for i in (1, 3))
    check(squeeze_excite, args)


def test_tensors_that_start_anywhere(stored):
    """Contiguous, but no vector of 16 bytes can be read where they start."""
    args = [t.new_empty(t.numel() + 1)[1:].view_as(t).copy_(t) for t in arguments((2, 64, 4, 4), stored, 16)]
    for layout in (torch.Tensor.contiguous, channels_last):
        check(squeeze_excite, [layout(args[0]), *args[1:]])
    check(squeeze_excite, [args[0].as_strided((2, 64, 4, 4), (1024, 1, 256, 64), 1), *args[1:]])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize(("shape", "hidden"), [((2, 40, 7, 7), 16), ((5, 520, 5, 3), 129)], ids=str)
def test_bit_equal_whoever_goes_first(shape, hidden, layout, stored):
    """Blocks and threads in other orders meet where a barrier makes them, and only there."""
    host.set_limits(FEW)
    args = laid_out(arguments(shape, stored, hidden), layout)
    gate = squeeze_excite(*args)
    assert gate.isfinite().all()
    for blocks in ("descending", "shuffled"):
        for threads in ("round_robin", "first_ahead", "last_ahead"):
            host.set_schedule(blocks, threads)
            assert squeeze_excite(*args).equal(gate)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_stays_in_its_sample_in_two_launches(layout, stored):
    host.set_limits(FEW)
    args = arguments((6, 520, 5, 3), stored, 129)
    args[1].abs_(), args[2].abs_()
    args[0][1, 519, 4, 2] = torch.nan
    gate = squeeze_excite(*laid_out(args, layout))
    assert launched()[0] == TWO
    assert gate[1].isnan().all()
    assert not gate[[0, 2, 3, 4, 5]].isnan().any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_half_dtypes_accumulate_in_float32_in_two_launches(layout):
    """A running sum in bfloat16 stops growing at 256 times a value, one in float16 overflows here."""
    for half in (torch.bfloat16, torch.float16):
        input = IMAGES[layout](torch.full((1, 8, 200, 100), 30.0, dtype=half))
        one = torch.zeros(1, 8, dtype=half)
        one[0, 0] = 1 / 16
        gate = squeeze_excite(input, one, None, one.t(), None)
        assert launched()[0] == TWO
        assert gate.tolist() == [[torch.tensor(30 / 256).sigmoid().to(half).item(), *[0.5] * 7]]


def test_samples_far_apart():
    """The second sample begins 2**31 elements behind the first. Pages that nobody writes take no memory."""
    torch.use_deterministic_algorithms(False)
    args = arguments((2, 24, 5, 7), torch.float16)
    far_apart = torch.empty(2**31 + 1024, dtype=torch.float16).as_strided((2, 24, 5, 7), (2**31, 1, 24 * 7, 24))
    near = args[0].clone()
    args[0] = far_apart.copy_(near)
    assert squeeze_excite(*args).equal(squeeze_excite(channels_last(near), *args[1:]))


def test_no_samples_no_launch(stored):
    gate = squeeze_excite(*arguments((0, 24, 5, 7), stored))
    assert gate.shape == (0, 24)
    assert launched() == ([], [])


@pytest.mark.parametrize(("changed", "sentence"), INVALID, ids=[sentence for _, sentence in INVALID])
def test_bad_input_is_refused_in_one_sentence(changed, sentence):
    with pytest.raises(RuntimeError, match=f"^kerneldna::squeeze_excite: {sentence}$"):
        squeeze_excite(*{**VALID, **changed}.values())


def test_too_many_features_for_a_block():
    host.set_limits(MANY, 4096)
    with pytest.raises(RuntimeError, match=r"excite_kernel.*shared memory"):
        squeeze_excite(*arguments((1, 8, 2, 2), torch.float32, 3000))


def test_sliced_weights_are_copied_not_changed():
    args = arguments((2, 24, 3, 3), torch.float32)
    args = [sliced(tensor) for tensor in args]
    before = [tensor.clone() for tensor in args]
    gate = squeeze_excite(*args)
    torch.testing.assert_close(gate, plain(*args))
    assert all(tensor.equal(copy) for tensor, copy in zip(args, before, strict=True))


def test_float64_is_refused():
    with pytest.raises(RuntimeError, match=r"^kerneldna::squeeze_excite: the CUDA kernels have none for float64$"):
        squeeze_excite(*arguments((2, 24, 3, 3), torch.float64))


def test_what_every_kernel_passes(tests_pass_with):
    path = os.pathsep.join((".", "cuda"))  # from tests/
    plugin = "support.on_cuda_host"
    tests_pass_with({"PYTHONPATH": path}, "-p", plugin, "op/test_squeeze_excite.py", "-k", "not float64")
