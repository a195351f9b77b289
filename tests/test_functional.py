"""functional.conv2d as a drop-in for F.conv2d: its arguments, its errors, what it adds to the op."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.functional import compatible_backends, conv2d
from support.cases import build, named

pytestmark = pytest.mark.usefixtures("threads")

CALL = build(named("kernel_3x2_stride_2x1_padding_1x0_dilation_2x1"))


ATTENTIONS = ("channel_attention", "filter_attention", "spatial_attention")


def test_attentions_are_keywords_of_the_op():
    torch.testing.assert_close(conv2d(**CALL._asdict()), torch.ops.kerneldna.conv(*CALL), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"stride": 2}, {"stride": (2, 2)}),
        ({"padding": 1}, {"padding": (1, 1)}),
        ({"dilation": 2}, {"dilation": (2, 2)}),
        ({"stride": [2, 1], "padding": [0, 1]}, {"stride": (2, 1), "padding": (0, 1)}),
        ({"padding": "valid"}, {"padding": (0, 0)}),
        ({"padding": "same", "stride": [1, 1], "dilation": (1, 2)}, {"padding": (1, 1), "dilation": (1, 2)}),
    ],
)
def test_forms_of_an_argument(given, meant):
    given, meant = (CALL._replace(stride=(1, 1), padding=(0, 0), dilation=(1, 1))._asdict() | c for c in (given, meant))
    torch.testing.assert_close(conv2d(**given), conv2d(**meant), rtol=0, atol=0)


# Each of these F.conv2d takes for the number 2, or for (2, 1).
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (np.int64(2), 2),
        (np.uint8(2), 2),
        (torch.tensor(2), 2),
        ((2,), 2),
        ([np.int32(2)], 2),
        ([2, np.int64(1)], (2, 1)),
        ((torch.tensor(2), 1), (2, 1)),
        (torch.Size([2, 1]), (2, 1)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_what_stands_for_an_integer_is_what_conv2d_takes(name, given, meant):
    input, weight = torch.randn(2, 4, 9, 8, dtype=torch.float64), torch.randn(6, 2, 3, 2, dtype=torch.float64)
    output = conv2d(input, weight, groups=np.int64(2), **{name: given})
    torch.testing.assert_close(output, F.conv2d(input, weight, groups=np.int64(2), **{name: given}))
    torch.testing.assert_close(output, F.conv2d(input, weight, groups=2, **{name: meant}))


@pytest.mark.parametrize("padding", [(1, 0), "same"])
def test_one_image_without_a_batch(padding):
    input, weight, bias = torch.randn(4, 9, 8), torch.randn(6, 4, 3, 3), torch.randn(6)
    torch.testing.assert_close(
        conv2d(input, weight, bias, padding=padding), F.conv2d(input, weight, bias, padding=padding)
    )
    image = CALL._replace(input=CALL.input[0], **{name: getattr(CALL, name)[0] for name in ATTENTIONS})
    torch.testing.assert_close(conv2d(**image._asdict()), conv2d(**CALL._asdict())[0])
    assert compatible_backends(**image._asdict()) == compatible_backends(**CALL._asdict())
    one_sample = CALL._replace(input=CALL.input[0], **{name: getattr(CALL, name)[:1] for name in ATTENTIONS})
    torch.testing.assert_close(conv2d(**one_sample._asdict()), conv2d(**CALL._asdict())[0])


@pytest.mark.parametrize("samples", [slice(None), 0], ids=["per_sample", "static"])
def test_attentions_as_blocks_of_squeeze_and_excitation_give_them(samples):
    c, f = CALL.channel_attention[samples], CALL.filter_attention[samples]
    plain = CALL._replace(channel_attention=c, filter_attention=f)
    maps = CALL._replace(channel_attention=c[..., None, None], filter_attention=f[..., None, None])
    torch.testing.assert_close(conv2d(**maps._asdict()), conv2d(**plain._asdict()), rtol=0, atol=0)


@pytest.mark.parametrize("dilation", [1, 2, (1, 2), (3, 1)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (2, 3), (5, 4)])
def test_same_padding_is_that_of_conv2d(kernel, dilation):
    input, weight = torch.randn(2, 3, 9, 8, dtype=torch.float64), torch.randn(4, 3, *kernel, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        expected = F.conv2d(input, weight, padding="same", dilation=dilation)
    torch.testing.assert_close(conv2d(input, weight, padding="same", dilation=dilation), expected)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("stride", "wide", TypeError), ("dilation", None, TypeError), ("weight", torch.ones(3), ValueError)],
)
def test_same_padding_checks_what_it_computes_with(name, value, error):
    call = CALL._asdict() | {"stride": [1, 1], "padding": "same", name: value}
    with pytest.raises(error, match=f"^conv2d: {name} must be"):
        conv2d(**call)


def test_takes_the_arguments_of_conv2d_by_position():
    input, weight, bias = CALL[:3]
    torch.testing.assert_close(conv2d(input, weight, bias, groups=2), F.conv2d(input, weight, bias, groups=2))
    with pytest.raises(TypeError, match="takes from 2 to 3 positional arguments"):
        conv2d(input, weight, bias, 1)


def test_an_error_of_the_op_that_is_no_mistake_of_the_caller_stays_as_it_is(monkeypatch):
    error = RuntimeError("out of memory")

    def fail(*args):
        raise error

    monkeypatch.setattr("kerneldna_ops.backends.composite.conv", fail)
    with pytest.raises(RuntimeError) as caught:
        conv2d(**CALL._asdict(), backend="composite")
    assert caught.value is error


def test_a_wrong_dtype_under_autocast_is_told_as_autocast_sees_it():
    wrong = CALL._replace(input=CALL.input.float(), weight=CALL.weight, filter_attention=torch.ones(3))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TypeError, match=r"^conv2d: weight must have the dtype of input \(bfloat16\), got float64$"),
    ):
        conv2d(**wrong._asdict())


def test_a_wrong_shape_under_autocast_is_not_told_as_a_wrong_dtype():
    wrong = CALL._replace(input=CALL.input.bfloat16(), weight=CALL.weight.float(), groups=5)
    wrong = wrong._replace(bias=None, channel_attention=None, filter_attention=None, spatial_attention=None)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"^conv2d: groups must divide"),
    ):
        conv2d(**wrong._asdict())


def test_meta_tensors_give_the_shape():
    call = CALL._asdict() | {name: getattr(CALL, name).to("meta") for name in CALL._fields[:6]}
    output = conv2d(**call)
    assert output.device.type == "meta"
    assert output.shape == conv2d(**CALL._asdict()).shape
