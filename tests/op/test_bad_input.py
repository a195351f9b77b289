"""Bad input gets one sentence that names the argument, what was expected and what came; the same on every way in."""

import functools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.call import TENSORS, Call
from kerneldna_ops.functional import conv2d, conv2d_per_sample
from support import truths
from support.devices import skip_unless_it_runs


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


GOOD = Call(
    input=ones(2, 6, 5, 4),
    weight=ones(4, 3, 3, 2),
    bias=ones(4),
    channel_attention=ones(2, 6),
    filter_attention=ones(2, 4),
    spatial_attention=ones(2, 3, 2),
    stride=(2, 1),
    padding=(1, 0),
    dilation=(1, 1),
    groups=2,
)
GOOD_MIXTURE = GOOD._replace(weight=ones(3, 4, 3, 3, 2), kernel_attention=ones(2, 3))


def good(name):
    """A call that has this argument, with all the others that it can have."""
    return GOOD_MIXTURE if name == "kernel_attention" else GOOD


def mixture(**changes):
    return GOOD_MIXTURE._replace(**changes)._asdict()


WEIGHT_DIMS = "weight must be 4-D [C_out, C_in/groups, kh, kw] or 5-D with a kernel for each sample in front, got"
BIAS = "bias must have shape [4] or [2, 4] (per sample), got"
KERNEL = "kernel_attention must have shape [2, 3] (samples, kernels), got"
CHANNEL = "channel_attention must have shape [2, 6] (per sample) or [6] (static), got"
FILTER = "filter_attention must have shape [2, 4] (per sample) or [4] (static), got"
SPATIAL = "spatial_attention must have shape [2, 3, 2] (per sample) or [3, 2] (static), got"
EMPTY = "only the batch of input may be empty, got"
FLOATS = "input must be float64, float32, float16 or bfloat16, got"

# name -> (what changes in GOOD, the sentence)
VALUES = {
    "input_2d": ({"input": ones(6, 5)}, "input must be 4-D [N, C_in, H, W], got 2-D [6, 5]"),
    "input_5d": ({"input": ones(2, 6, 5, 4, 1)}, "input must be 4-D [N, C_in, H, W], got 5-D [2, 6, 5, 4, 1]"),
    "input_channels": (
        {"input": ones(2, 8, 5, 4)},
        "weight must have C_in/groups = 4 input channels, got 3 in [4, 3, 3, 2]",
    ),
    "input_of_no_channels": (
        {"input": ones(2, 0, 5, 4), "weight": ones(4, 0, 3, 2)},
        f"{EMPTY} input [2, 0, 5, 4] and weight [4, 0, 3, 2]",
    ),
    "input_of_no_pixels": (
        {"input": ones(2, 6, 5, 0)},
        f"{EMPTY} input [2, 6, 5, 0] and weight [4, 3, 3, 2]",
    ),
    "input_of_no_pixels_but_padding": (
        {"input": ones(2, 6, 5, 0), "padding": (1, 2)},
        f"{EMPTY} input [2, 6, 5, 0] and weight [4, 3, 3, 2]",
    ),
    "weight_2d": ({"weight": ones(4, 3)}, f"{WEIGHT_DIMS} 2-D [4, 3]"),
    "weight_6d": ({"weight": ones(1, 2, 4, 3, 3, 2)}, f"{WEIGHT_DIMS} 6-D [1, 2, 4, 3, 3, 2]"),
    "weight_of_other_samples": (
        {"weight": ones(3, 4, 3, 3, 2)},
        "weight must have a kernel for each of the N = 2 samples, got 3 in [3, 4, 3, 3, 2]",
    ),
    "weights_channels": (
        {"weight": ones(2, 4, 6, 3, 2)},
        "weight must have C_in/groups = 3 input channels, got 6 in [2, 4, 6, 3, 2]",
    ),
    "mixture_of_one_weight": (
        mixture(weight=ones(4, 3, 3, 2)),
        "weight must be 5-D [K, C_out, C_in/groups, kh, kw] with kernel_attention, got 4-D [4, 3, 3, 2]",
    ),
    "mixture_of_nothing": (
        mixture(weight=ones(0, 4, 3, 3, 2), kernel_attention=ones(2, 0)),
        "weight must have one kernel at least, got [0, 4, 3, 3, 2]",
    ),
    "mixture_samples": (mixture(kernel_attention=ones(3, 3)), f"{KERNEL} [3, 3]"),
    "mixture_kernels": (mixture(kernel_attention=ones(2, 4)), f"{KERNEL} [2, 4]"),
    "mixture_static": (mixture(kernel_attention=ones(3)), f"{KERNEL} [3]"),
    "weight_channels": (
        {"weight": ones(4, 6, 3, 2)},
        "weight must have C_in/groups = 3 input channels, got 6 in [4, 6, 3, 2]",
    ),
    "weight_of_no_filters": (
        {"weight": ones(0, 3, 3, 2)},
        f"{EMPTY} input [2, 6, 5, 4] and weight [0, 3, 3, 2]",
    ),
    "weight_of_no_taps": (
        {"weight": ones(4, 3, 0, 2)},
        f"{EMPTY} input [2, 6, 5, 4] and weight [4, 3, 0, 2]",
    ),
    "bias_size": ({"bias": ones(3)}, f"{BIAS} [3]"),
    "bias_samples": ({"bias": ones(1, 4)}, f"{BIAS} [1, 4]"),
    "bias_0d": ({"bias": ones()}, f"{BIAS} []"),
    "channel_attention_samples": ({"channel_attention": ones(3, 6)}, f"{CHANNEL} [3, 6]"),
    "channel_attention_to_broadcast": ({"channel_attention": ones(1, 6)}, f"{CHANNEL} [1, 6]"),
    "channel_attention_channels": ({"channel_attention": ones(2, 3)}, f"{CHANNEL} [2, 3]"),
    "channel_attention_static_channels": ({"channel_attention": ones(3)}, f"{CHANNEL} [3]"),
    "channel_attention_4d": ({"channel_attention": ones(2, 6, 1, 2)}, f"{CHANNEL} [2, 6, 1, 2]"),
    "channel_attention_3d": ({"channel_attention": ones(2, 6, 1)}, f"{CHANNEL} [2, 6, 1]"),
    "channel_attention_0d": ({"channel_attention": ones()}, f"{CHANNEL} []"),
    "filter_attention_samples": ({"filter_attention": ones(1, 4)}, f"{FILTER} [1, 4]"),
    "filter_attention_filters": ({"filter_attention": ones(2, 6)}, f"{FILTER} [2, 6]"),
    "filter_attention_static_filters": ({"filter_attention": ones(2)}, f"{FILTER} [2]"),
    "spatial_attention_samples": ({"spatial_attention": ones(4, 3, 2)}, f"{SPATIAL} [4, 3, 2]"),
    "spatial_attention_transposed": ({"spatial_attention": ones(2, 2, 3)}, f"{SPATIAL} [2, 2, 3]"),
    "spatial_attention_static_transposed": ({"spatial_attention": ones(2, 3)}, f"{SPATIAL} [2, 3]"),
    "spatial_attention_flat": ({"spatial_attention": ones(2, 6)}, f"{SPATIAL} [2, 6]"),
    "spatial_attention_4d": ({"spatial_attention": ones(2, 1, 3, 2)}, f"{SPATIAL} [2, 1, 3, 2]"),
    "stride_zero": ({"stride": (0, 1)}, "stride must be at least 1, got [0, 1]"),
    "stride_negative": ({"stride": (1, -2)}, "stride must be at least 1, got [1, -2]"),
    "padding_negative": ({"padding": (0, -1)}, "padding must be at least 0, got [0, -1]"),
    "padding_beyond_64_bits_on_both_sides": (
        {"padding": (1, 2**63 - 1)},
        f"padding must be at most {2**24}, got [1, {2**63 - 1}]",
    ),
    "padding_as_large_as_the_stride": (
        {"padding": (2**62, 1), "stride": (2**62, 1)},
        f"padding must be at most {2**24}, got [{2**62}, 1]",
    ),
    "dilation_zero": ({"dilation": (1, 0)}, "dilation must be at least 1, got [1, 0]"),
    "dilation_negative": ({"dilation": (-1, 1)}, "dilation must be at least 1, got [-1, 1]"),
    "stride_of_three": ({"stride": (1, 1, 1)}, "stride must have 2 values (height, width), got 3"),
    "padding_of_three": ({"padding": (1, 1, 1)}, "padding must have 2 values (height, width), got 3"),
    "dilation_of_none": ({"dilation": ()}, "dilation must have 2 values (height, width), got 0"),
    "groups_zero": ({"groups": 0}, "groups must be at least 1, got 0"),
    "groups_negative": ({"groups": -2}, "groups must be at least 1, got -2"),
    "groups_that_do_not_divide_channels": ({"groups": 4}, "groups must divide C_in = 6 and C_out = 4, got 4"),
    "groups_that_do_not_divide_filters": ({"groups": 3}, "groups must divide C_in = 6 and C_out = 4, got 3"),
    "output_empty": (
        {"dilation": (4, 1)},
        "the output would be empty: a kernel of [3, 2] with dilation [4, 1] does not fit into an input of [5, 4]"
        " with padding [1, 0]",
    ),
    "output_empty_by_a_dilation_beyond_64_bits": (
        {"dilation": (2**62, 1)},
        f"the output would be empty: a kernel of [3, 2] with dilation [{2**62}, 1] does not fit into an input of"
        " [5, 4] with padding [1, 0]",
    ),
    **{
        f"{name}_on_another_device": (
            good(name)._replace(**{name: getattr(good(name), name).to("meta")})._asdict(),
            f"{name} must be on the device of input (cpu), got meta",
        )
        for name in TENSORS[1:]
    },
    "input_on_another_device": (
        {"input": GOOD.input.to("meta")},
        "weight must be on the device of input (meta), got cpu",
    ),
}
TYPES = {
    **{
        f"input_{name}": ({"input": GOOD.input.to(dtype)}, f"{FLOATS} {name}")
        for name, dtype in {
            "bool": torch.bool,
            "uint8": torch.uint8,
            "int32": torch.int32,
            "int64": torch.int64,
            "float8_e4m3fn": torch.float8_e4m3fn,
            "complex64": torch.complex64,
            "complex128": torch.complex128,
        }.items()
    },
    **{
        f"{name}_of_another_dtype": (
            good(name)._replace(**{name: getattr(good(name), name).to(torch.float64)})._asdict(),
            f"{name} must have the dtype of input (float32), got float64",
        )
        for name in TENSORS[1:]
    },
    "input_of_another_dtype": (
        {"input": GOOD.input.half()},
        "weight must have the dtype of input (float16), got float32",
    ),
    "weight_of_integers": (
        {"weight": GOOD.weight.long()},
        "weight must have the dtype of input (float32), got int64",
    ),
}
ALL = {**VALUES, **TYPES}

# What functional.conv2d takes and the op does not.
OP_ONLY = {
    "image": ({"input": ones(6, 5, 4)}, "input must be 4-D [N, C_in, H, W], got 3-D [6, 5, 4]"),
    "channel_attention_of_one_pixel": ({"channel_attention": ones(2, 6, 1, 1)}, f"{CHANNEL} [2, 6, 1, 1]"),
    "padding_of_one": ({"padding": (1,)}, "padding must have 2 values (height, width), got 1"),
}

# What Python alone can be given: name -> (what changes in GOOD, the sentence, the error).
PYTHON_ONLY = {
    "input_none": ({"input": None}, "input must be a tensor, got NoneType", TypeError),
    "input_list": ({"input": [[1.0]]}, "input must be a tensor, got list", TypeError),
    "weight_number": ({"weight": 1.0}, "weight must be a tensor, got float", TypeError),
    "bias_number": ({"bias": 0}, "bias must be a tensor, got int", TypeError),
    "channel_attention_list": (
        {"channel_attention": [1.0] * 6},
        "channel_attention must be a tensor, got list",
        TypeError,
    ),
    "stride_float": ({"stride": 1.5}, "stride must be an int or a pair of ints, got 1.5", TypeError),
    "stride_float_in_pair": ({"stride": (1, 1.5)}, "stride must be an int or a pair of ints, got (1, 1.5)", TypeError),
    "dilation_none": ({"dilation": None}, "dilation must be an int or a pair of ints, got None", TypeError),
    "stride_bool": ({"stride": True}, "stride must be an int or a pair of ints, got True", TypeError),
    "padding_bool_in_pair": (
        {"padding": (1, False)},
        "padding must be an int or a pair of ints, got (1, False)",
        TypeError,
    ),
    "dilation_tensor_bool": (
        {"dilation": torch.tensor(True)},
        "dilation must be an int or a pair of ints, got tensor(True)",
        TypeError,
    ),
    "stride_tensor": (
        {"stride": torch.tensor([2, 1])},
        "stride must be an int or a pair of ints, got tensor([2, 1])",
        TypeError,
    ),
    "stride_array": (
        {"stride": np.array([2, 1])},
        "stride must be an int or a pair of ints, got array([2, 1])",
        TypeError,
    ),
    "padding_none": ({"padding": None}, "padding must be an int or a pair of ints, got None", TypeError),
    "groups_bool": ({"groups": True}, "groups must be an int, got True", TypeError),
    "stride_text": ({"stride": "same"}, "stride must be an int or a pair of ints, got 'same'", TypeError),
    "groups_float": ({"groups": 2.0}, "groups must be an int, got 2.0", TypeError),
    "padding_text": (
        {"padding": "full"},
        "padding must be an int, a pair of ints, 'same' or 'valid', got 'full'",
        ValueError,
    ),
    "padding_same_with_stride": ({"padding": "same"}, "padding='same' needs stride 1, got (2, 1)", ValueError),
}


def whole(op, sentence):
    return f"^{re.escape(f'{op}: {sentence}')}$"


def test_the_call_that_the_bad_ones_start_from_is_good():
    for call in (GOOD, GOOD_MIXTURE, GOOD._replace(weight=ones(2, 4, 3, 3, 2), bias=ones(2, 4))):
        assert torch.ops.kerneldna.conv(*call).shape == (2, 4, 3, 3)
        assert torch.ops.kerneldna.conv(*on_meta(call)).shape == (2, 4, 3, 3)


def on_meta(call):
    return truths.map_tensors(lambda tensor: tensor.to("meta"), call)


@pytest.mark.parametrize("mistake", VALUES)
def test_functional_raises_value_error(mistake):
    changes, sentence = VALUES[mistake]
    with pytest.raises(ValueError, match=whole("conv2d", sentence)):
        conv2d(**GOOD._replace(**changes)._asdict())


@pytest.mark.parametrize("mistake", TYPES)
def test_functional_raises_type_error(mistake):
    changes, sentence = TYPES[mistake]
    with pytest.raises(TypeError, match=whole("conv2d", sentence)):
        conv2d(**GOOD._replace(**changes)._asdict())


@pytest.mark.parametrize("mistake", PYTHON_ONLY)
def test_functional_refuses_what_is_no_argument_of_the_op(mistake):
    changes, sentence, error = PYTHON_ONLY[mistake]
    with pytest.raises(error, match=whole("conv2d", sentence)):
        conv2d(**GOOD._replace(**changes)._asdict())


@pytest.mark.parametrize("mistake", [*ALL, *OP_ONLY])
def test_op_raises_the_same_sentence(mistake):
    changes, sentence = (ALL | OP_ONLY)[mistake]
    with pytest.raises(RuntimeError, match=whole("kerneldna::conv", sentence)):
        torch.ops.kerneldna.conv(*GOOD._replace(**changes))


@pytest.mark.parametrize("mistake", [mistake for mistake in ALL if "device" not in mistake])
def test_fake_kernel_raises_the_same_sentence(mistake):
    changes, sentence = ALL[mistake]
    with pytest.raises(RuntimeError, match=whole("kerneldna::conv", sentence)):
        torch.ops.kerneldna.conv(*on_meta(GOOD._replace(**changes)))


@pytest.mark.parametrize("mistake", ALL)
def test_backward_op_raises_the_same_sentence(mistake):
    changes, sentence = ALL[mistake]
    with pytest.raises(RuntimeError, match=whole("kerneldna::conv_backward", sentence)):
        torch.ops.kerneldna.conv_backward(ones(2, 4, 3, 3), *GOOD._replace(**changes), [True] * 6)


# name -> (grad_output, what changes in GOOD, the sentence)
BACKWARD = {
    "shape": (ones(2, 4, 3, 4), {}, "grad_output must have shape [2, 4, 3, 3], got [2, 4, 3, 4]"),
    "samples": (ones(1, 4, 3, 3), {}, "grad_output must have shape [2, 4, 3, 3], got [1, 4, 3, 3]"),
    "rank": (ones(4, 3, 3), {}, "grad_output must have shape [2, 4, 3, 3], got [4, 3, 3]"),
    "dtype": (
        ones(2, 4, 3, 3, dtype=torch.float64),
        {},
        "grad_output must have the dtype of input (float32), got float64",
    ),
    "gradient_of_nothing": (
        ones(2, 4, 3, 3),
        {"filter_attention": None},
        "output_mask asks for the gradient of filter_attention, which is None",
    ),
    "gradient_of_no_kernel_attention": (
        ones(2, 4, 3, 3),
        {},
        "output_mask asks for the gradient of kernel_attention, which is None",
    ),
}


@pytest.mark.parametrize("mistake", BACKWARD)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_backward_op_checks_the_gradient_that_comes_in(mistake, device):
    grad, changes, sentence = BACKWARD[mistake]
    call = truths.map_tensors(lambda tensor: tensor.to(device), GOOD._replace(**changes))
    mask = [True] * (7 if "kernel" in mistake else 6)
    with pytest.raises(RuntimeError, match=whole("kerneldna::conv_backward", sentence)):
        torch.ops.kerneldna.conv_backward(grad.to(device), *call, mask)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_backward_op_checks_its_mask(device):
    call, grad = truths.map_tensors(lambda tensor: tensor.to(device), GOOD), ones(2, 4, 3, 3).to(device)
    for values in (5, 8):
        with pytest.raises(RuntimeError, match=f"output_mask must have 7 values, got {values}$"):
            torch.ops.kerneldna.conv_backward(grad, *call, [True] * values)


BIAS_OF_KERNELS = {
    "kernels": ({"bias": ones(2, 4)}, "bias must have shape [C_out] or, one for each kernel, [3, C_out], got [2, 4]"),
    "filters": ({"bias": ones(3, 5)}, "bias must have shape [4] or [2, 4] (per sample), got [2, 5]"),
    "dtype": ({"bias": ones(3, 4).double()}, "bias must have the dtype of input (float32), got float64"),
    "attention": ({"bias": ones(3, 4), "kernel_attention": ones(2, 2)}, f"{KERNEL} [2, 2]"),
    "dtype_of_attention": (
        {"bias": ones(3, 4), "kernel_attention": ones(2, 3).double()},
        "kernel_attention must have the dtype of input (float32), got float64",
    ),
}


@pytest.mark.parametrize("mistake", BIAS_OF_KERNELS)
def test_a_bias_for_each_kernel(mistake):
    changes, sentence = BIAS_OF_KERNELS[mistake]
    with pytest.raises((ValueError, TypeError), match=whole("conv2d", sentence)):
        conv2d(**mixture(**changes))


def test_kernels_per_sample_are_five_dimensional():
    sentence = "weight must be 5-D [N, C_out, C_in/groups, kh, kw], got 4-D [4, 3, 3, 2]"
    with pytest.raises(ValueError, match=whole("conv2d_per_sample", sentence)):
        conv2d_per_sample(GOOD.input, GOOD.weight, groups=2)


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"^backend must be one of .*, got 'fastest'$"):
        conv2d(**GOOD._asdict(), backend="fastest")


def test_a_lack_of_memory_is_told_as_pytorch_tells_it():
    many = ones(1, 1, 1, 1).expand(2**44, 1, 1, 1)
    with pytest.raises(RuntimeError, match="you tried to allocate 70368744177664 bytes"):
        conv2d(many, ones(1, 1, 1, 1), backend="cpu")


# What autograd refuses on its own must reach the user as it is.


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "bias"])
def test_tensor_changed_in_place_before_backward(name):
    call = good(name)._replace(input=GOOD.input.clone().requires_grad_())
    changed = getattr(call, name) * 1
    output = conv2d(**call._replace(**{name: changed})._asdict())
    with torch.no_grad():
        changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_view_of_a_leaf_changed_in_place():
    leaf = GOOD.input.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad is being used in an in-place"):
        conv2d(**GOOD._replace(input=leaf[:, :].mul_(2))._asdict())


def test_view_changed_in_place_before_the_call_is_no_mistake():
    leaf = GOOD.input.clone().requires_grad_()
    view = (leaf * 1)[:, :]
    view.mul_(2)
    conv2d(**GOOD._replace(input=view)._asdict()).sum().backward()
    expected = torch.ops.kerneldna.conv_backward(ones(2, 4, 3, 3), *GOOD, [True, *[False] * 5])[0] * 2
    torch.testing.assert_close(leaf.grad, expected)


def test_output_changed_in_place_is_no_mistake():
    input = GOOD.input.clone().requires_grad_()
    output = conv2d(**GOOD._replace(input=input)._asdict())
    output.mul_(2)
    output.sum().backward()
    expected = torch.ops.kerneldna.conv_backward(ones(2, 4, 3, 3), *GOOD, [True, *[False] * 5])[0] * 2
    torch.testing.assert_close(input.grad, expected)


def test_none_is_named_where_the_dispatcher_lets_it_through():
    with pytest.raises(RuntimeError, match=whole("kerneldna::conv_backward", "grad_output must be a tensor, got None")):
        torch.ops.kerneldna.conv_backward(None, *GOOD, [True] * 6)
    with pytest.raises(RuntimeError, match=whole("kerneldna::squeeze_excite", "fc1_weight must be a tensor, got None")):
        torch.ops.kerneldna.squeeze_excite(GOOD.input, None, None, ones(5, 2), None)


@pytest.mark.parametrize(("stride", "padding"), [(2**31, 1), (2**40, 0), (2**62, 1), (2**63 - 1, 0)])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_stride_that_leaves_the_map_is_no_mistake(backend, groups, stride, padding):
    def results(conv, stride):
        leaves = [torch.arange(240.0).view(2, 6, 5, 4), torch.arange(36.0 * 6 // groups).view(6, 6 // groups, 3, 2)]
        output = conv(*(leaf.requires_grad_() for leaf in leaves), stride=stride, padding=padding, groups=groups)
        return output, *torch.autograd.grad(output.sum(), leaves)

    input, weight = ones(2, 6, 5, 4), ones(6, 6 // groups, 3, 2)
    shape = (stride, stride), (padding, padding), (1, 1), groups
    skip_unless_it_runs(backend, Call(input, weight, None, None, None, None, *shape))
    actual = results(functools.partial(conv2d, backend=backend), stride)
    torch.testing.assert_close(actual, results(F.conv2d, 7))
