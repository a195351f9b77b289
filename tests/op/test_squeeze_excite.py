"""torch.ops.kerneldna.squeeze_excite against plain PyTorch in float64: every dtype, layout, size and refusal."""

import pytest
import torch

from kerneldna_ops import backends, use_backend
from support.gates import INVALID, VALID, arguments, check
from support.layouts import IMAGES, VECTORS, WEIGHTS, channels_last

squeeze_excite = torch.ops.kerneldna.squeeze_excite

pytestmark = pytest.mark.usefixtures("poisoned_memory", "threads")

# [N, C, H, W]: odd, tiny and empty; more pixels than a block of sums; maps of one row, of one column, of one pixel.
SHAPES = [
    (3, 19, 7, 5),
    (0, 4, 2, 2),
    (1, 1, 3, 3),
    (9, 64, 7, 7),
    (2, 5, 37, 41),
    (1, 70, 20, 17),
    (5, 33, 1, 40),
    (4, 6, 40, 1),
    (6, 130, 1, 1),
]


@pytest.mark.parametrize("layout", IMAGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_input_of_any_layout(device, shape, layout, dtype):
    args = arguments(shape, dtype, device=device)
    args[0] = IMAGES[layout](args[0])
    check(squeeze_excite, args)


@pytest.mark.parametrize("layout", WEIGHTS)
@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_weights_of_any_layout_as_1x1_convolutions(device, batch, layout, dtype):
    args = arguments((batch, 21, 3, 4), dtype, device=device)
    args[1], args[3] = (WEIGHTS[layout](args[i][..., None, None]) for i in (1, 3))
    check(squeeze_excite, args)


@pytest.mark.parametrize("layout", VECTORS)
def test_biases_of_any_layout(device, layout, dtype):
    args = arguments((2, 21, 3, 4), dtype, device=device)
    args[2], args[4] = VECTORS[layout](args[2]), VECTORS[layout](args[4])
    check(squeeze_excite, args)


@pytest.mark.parametrize("absent", [(2,), (4,), (2, 4)], ids=["fc1_bias", "fc2_bias", "both"])
def test_without_bias(device, absent):
    args = arguments((3, 8, 5, 5), torch.float32, device=device)
    for i in absent:
        args[i] = None
    check(squeeze_excite, args)


@pytest.mark.parametrize("hidden", [1, 2, 3, 16, 33])
def test_any_number_of_hidden_features(device, hidden):
    check(squeeze_excite, arguments((5, 12, 2, 3), torch.float32, hidden, device))


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_dtypes_accumulate_in_float32(device, half, layout):
    """A running sum in bfloat16 stops growing at 256 times a value, one in float16 overflows here."""
    input = layout(torch.full((1, 2, 90, 100), 30.0, dtype=half, device=device))
    one = torch.tensor([[1 / 16, 0.0]], dtype=half, device=device)
    gate = squeeze_excite(input, one, None, one.t(), None)
    assert gate.tolist() == [[torch.tensor(30 / 256).sigmoid().to(half).item(), 0.5]]


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels_last"])
def test_error_of_the_mean_does_not_grow_with_the_picture(layout):
    """Adding the same value again and again rounds to the same side: the worst case of a running sum."""
    input = layout(torch.full((1, 2, 1100, 1000), 0.1))
    gate = squeeze_excite(input, torch.tensor([[16.0, 0.0]]), None, torch.tensor([[1.0], [0.0]]), None)
    torch.testing.assert_close(gate, torch.tensor([[1.6, 0.0]]).sigmoid(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels_last"])
def test_bit_equal_for_any_number_of_threads(layout, threads):
    args = arguments((3, 128, 40, 33), torch.float32)
    args[0] = layout(args[0])
    gates = []
    for count in (1, 2, 3):
        threads(count)
        gates.append(squeeze_excite(*args))
    assert gates[0].equal(gates[1])
    assert gates[0].equal(gates[2])


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels_last"])
def test_nan_stays_in_its_sample(device, layout, dtype):
    args = arguments((3, 24, 5, 7), dtype, device=device)
    args[1].abs_(), args[2].abs_()
    args[0][1, 20, 4, 6] = torch.nan
    args[0] = layout(args[0])
    gate = squeeze_excite(*args)
    assert gate[1].isnan().all()
    assert not gate[[0, 2]].isnan().any()


def test_infinite_logits_give_zero_and_one(device, dtype):
    args = arguments((2, 20, 3, 3), dtype, device=device)
    args[4][:3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    gate = squeeze_excite(*args)
    assert gate[:, 0].tolist() == [1, 1]
    assert gate[:, 1].tolist() == [0, 0]
    assert gate[:, 2].isnan().all()
    assert not gate[:, 3:].isnan().any()


def test_large_logits():
    """Where exp(-logit) is near the ends of float32."""
    logits = torch.linspace(-100, 100, 401)
    zero = torch.zeros(401, 1)
    gate = squeeze_excite(torch.ones(1, 401, 1, 1), zero.t(), None, zero, logits)[0]
    expected = logits.double().sigmoid()
    seen = logits > -87
    torch.testing.assert_close(gate[seen].double(), expected[seen], rtol=1e-6, atol=0)
    assert (gate[~seen].double() - expected[~seen]).abs().max() < 1e-37


# What one program holds, and what takes two launches, samples sharing blocks or not.
CARD = [
    (3, 19, 7, 5),
    (5, 70, 20, 17),
    (33, 264, 23, 21),
    (1, 520, 9, 7),
    (70, 1032, 3, 3),
    (2, 64, 1, 1),
    (0, 8, 2, 2),
]


@pytest.mark.on("cuda")
@pytest.mark.without_backends("composite", "reference")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("shape", [pytest.param(shape, marks=pytest.mark.sanitizer_sample) for shape in CARD], ids=str)
def test_every_backend_of_a_card(device, backend, dtype, shape, layout):
    check_backend(device, backend, dtype, shape, layout)


@pytest.mark.on("stand-in")
@pytest.mark.without_backends("composite", "reference")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 6, 3, 2), (3, 19, 7, 5)], ids=str)
def test_every_backend_of_the_stand_in(device, backend, dtype, shape, layout):
    check_backend(device, backend, dtype, shape, layout)


def check_backend(device, backend, dtype, shape, layout):
    args = arguments(shape, dtype, device=device)
    args[0] = IMAGES[layout](args[0])
    runs, reason = backends.module_of(backend).runs_on(args[0])
    if not runs:
        pytest.skip(f"{backend}: {reason}")
    with use_backend(backend):
        check(squeeze_excite, args)
        assert torch.equal(squeeze_excite(*args), squeeze_excite(*args))


def test_opcheck(device, dtype):
    args = arguments((2, 9, 3, 4), dtype, device=device)
    torch.library.opcheck(squeeze_excite.default, args)


def test_compiles_without_graph_break(device):
    args = arguments((2, 9, 3, 4), torch.float32, device=device)
    compiled = torch.compile(lambda *args: squeeze_excite(*args) * 2, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), squeeze_excite(*args) * 2)


def test_backward_is_refused():
    args = arguments((2, 9, 3, 4), torch.float32)
    gate = squeeze_excite(args[0].requires_grad_(), *args[1:])
    with pytest.raises(RuntimeError, match="squeeze_excite has no backward"):
        gate.sum().backward()


@pytest.mark.parametrize(("changed", "sentence"), INVALID, ids=[sentence for _, sentence in INVALID])
def test_bad_input_is_refused_in_one_sentence(changed, sentence):
    with pytest.raises(RuntimeError, match=f"^kerneldna::squeeze_excite: {sentence}$"):
        squeeze_excite(*{**VALID, **changed}.values())
