"""torch.ops.kerneldna.squeeze_excite against plain PyTorch in float64: every dtype, layout, size and refusal."""

import pytest
import torch

from gates import INVALID, VALID, arguments, check
from layouts import IMAGES, VECTORS, WEIGHTS, channels_last

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
def test_input_of_any_layout(shape, layout, dtype):
    args = arguments(shape, dtype)
    args[0] = IMAGES[layout](args[0])
    check(squeeze_excite, args)


@pytest.mark.parametrize("layout", WEIGHTS)
@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_weights_of_any_layout_as_1x1_convolutions(batch, layout, dtype):
    args = arguments((batch, 21, 3, 4), dtype)
    args[1], args[3] = (WEIGHTS[layout](args[i][..., None, None]) for i in (1, 3))
    check(squeeze_excite, args)


@pytest.mark.parametrize("layout", VECTORS)
def test_biases_of_any_layout(layout, dtype):
    args = arguments((2, 21, 3, 4), dtype)
    args[2], args[4] = VECTORS[layout](args[2]), VECTORS[layout](args[4])
    check(squeeze_excite, args)


@pytest.mark.parametrize("absent", [(2,), (4,), (2, 4)], ids=["fc1_bias", "fc2_bias", "both"])
def test_without_bias(absent):
    args = arguments((3, 8, 5, 5), torch.float32)
    for i in absent:
        args[i] = None
    check(squeeze_excite, args)


@pytest.mark.parametrize("hidden", [1, 2, 3, 16, 33])
def test_any_number_of_hidden_features(hidden):
    check(squeeze_excite, arguments((5, 12, 2, 3), torch.float32, hidden))


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_dtypes_accumulate_in_float32(half, layout):
    """A running sum in bfloat16 stops growing at 256 times a value, one in float16 overflows here."""
    input = layout(torch.full((1, 2, 90, 100), 30.0, dtype=half))
    one = torch.tensor([[1 / 16, 0.0]], dtype=half)
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
def test_nan_stays_in_its_sample(layout, dtype):
    args = arguments((3, 24, 5, 7), dtype)
    args[1].abs_(), args[2].abs_()
    args[0][1, 20, 4, 6] = torch.nan
    args[0] = layout(args[0])
    gate = squeeze_excite(*args)
    assert gate[1].isnan().all()
    assert not gate[[0, 2]].isnan().any()


def test_infinite_logits_give_zero_and_one(dtype):
    args = arguments((2, 20, 3, 3), dtype)
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


def test_opcheck(dtype):
    args = arguments((2, 9, 3, 4), dtype)
    torch.library.opcheck(squeeze_excite.default, args)


def test_compiles_without_graph_break():
    args = arguments((2, 9, 3, 4), torch.float32)
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
