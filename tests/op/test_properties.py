"""Random calls: a valid one is never refused and is right; an invalid one gets one sentence, the same everywhere."""

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kerneldna_ops import backends
from kerneldna_ops.call import Call
from kerneldna_ops.functional import conv2d
from support import truths
from support.cases import ABSENT, SAMPLE, STATIC, Case, build, grad_output, numbers
from support.layouts import GRADIENTS, IMAGES, VECTORS, WEIGHTS
from support.tolerance import assert_within

pytestmark = pytest.mark.usefixtures("poisoned_memory")

sizes = st.integers(1, 4)
kinds = st.sampled_from([ABSENT, STATIC, SAMPLE])


@st.composite
def valid_cases(draw, unit=1):
    """Of groups of `unit` channels and filters, or some times as many."""
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    kernel, stride, dilation = (draw(st.tuples(sizes, sizes)) for _ in range(3))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    # As small as the kernel allows, and some more.
    pixels = [
        max(1, dilation[axis] * (kernel[axis] - 1) + 1 - 2 * padding[axis]) + draw(st.integers(0, 7)) for axis in (0, 1)
    ]
    return Case(
        "random",
        (draw(st.integers(0, 3)), groups * per_group * unit, *pixels),
        groups * draw(st.integers(1, 5)) * unit,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        draw(st.booleans()),
        draw(kinds),
        draw(kinds),
        draw(kinds),
        *(draw(st.sampled_from(list(layouts))) for layouts in (IMAGES, WEIGHTS, VECTORS, GRADIENTS)),
        draw(st.sampled_from([0, 0, 0, 1, 3, SAMPLE])),
    )


@pytest.mark.on("cpu", "stand-in")
@pytest.mark.without_backends("cuda_host")  # which takes next to none of these
@settings(max_examples=30 if os.environ.get("TRITON_INTERPRET") == "1" else 300)  # interpreted, each takes 0.4 s
@given(case=valid_cases(), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_valid_call_is_right(device, backend, threads, case, dtype):
    check_valid_call(case, dtype, device, backend)


@pytest.mark.on("cuda")
@settings(max_examples=30)  # each is compiled by Triton
@given(case=valid_cases(unit=8), half=st.sampled_from([torch.bfloat16, torch.float16]))
def test_valid_call_on_a_card_is_right(device, backend, case, half):
    check_valid_call(case, half, device, backend)


def check_valid_call(case, dtype, device, backend):
    call, outputs = build(case, dtype, device), []
    assume(backends.module_of(backend).can_run(call)[0])

    def conv(call):
        outputs.append(conv2d(**call._asdict(), backend=backend))
        return outputs[0]

    gradients = truths.by_autograd(conv, call, grad_output(case, dtype, device))
    assert_within([outputs[0]], [truths.output(case)], truths.plain_outputs(case, dtype, device))
    assert_within(gradients, truths.gradients(case), truths.plain_gradients(case, dtype, device))


@st.composite
def calls(draw):
    """A valid call of which some arguments are changed to something near, valid or not."""
    call = build(draw(valid_cases()), torch.float32)
    changes = {}
    for name in draw(st.sets(st.sampled_from(Call._fields), max_size=3)):
        value = getattr(call, name)
        if name == "groups":
            changes[name] = draw(st.integers(-1, 7))
        elif isinstance(value, tuple):
            changes[name] = draw(st.lists(st.integers(-2, 6), min_size=2, max_size=2).map(tuple))
        elif value is not None:
            shape = list(value.shape)
            for _ in range(draw(st.integers(0, 2))):
                change, at = draw(st.sampled_from(["size", "drop", "insert"])), draw(st.integers(0, len(shape)))
                if change == "insert":
                    shape.insert(at, draw(st.integers(0, 3)))
                elif shape and change == "drop":
                    shape.pop(at % len(shape))
                elif shape:
                    shape[at % len(shape)] = draw(st.integers(0, 7))
            dtype = draw(st.sampled_from([torch.float32] * 4 + [torch.float64, torch.int64, torch.complex64]))
            changes[name] = numbers("random", *shape).to(dtype)
    return call._replace(**changes)


def is_for_conv2d_alone(call):
    """Shapes that the friendly form takes and the op does not: one image, attentions of one pixel."""
    attentions = [call.channel_attention, call.filter_attention, call.kernel_attention]
    of_one_pixel = any(a is not None and a.shape[1:][-2:] == (1, 1) for a in attentions)
    bias_of_kernels = call.kernel_attention is not None and call.bias is not None and call.bias.dim() == 2
    return call.input.dim() == 3 or of_one_pixel or bias_of_kernels


def is_valid(call):
    """By the rules of F.conv2d for a batch, and those of the attentions."""
    input, weight, bias, a = call.input, call.weight, call.bias, call.kernel_attention
    if input.dim() != 4 or weight.dim() not in ((4, 5) if a is None else (5,)):
        return False
    if 0 in input.shape[1:] or 0 in call.kernel_shape:
        return False
    dtypes = {tensor.dtype for tensor in call.tensors if tensor is not None}
    if dtypes not in ({torch.float32}, {torch.float64}):
        return False
    if min(*call.stride, *call.dilation) < 1 or min(call.padding) < 0:
        return False
    one_sample = input.new_ones(1, *input.shape[1:])  # of none at all, conv2d does not look at the rest
    try:
        F.conv2d(one_sample, weight.new_ones(call.kernel_shape), None, *call.geometry)
    except (RuntimeError, ValueError):
        return False
    batch, (filters, _, *taps) = len(input), call.kernel_shape
    kernels = batch if a is None else a.size(-1) if a.dim() else 0
    if weight.dim() == 5 and (len(weight) != kernels or (a is not None and a.shape != (batch, kernels or 1))):
        return False
    per_sample = ((batch, filters), (batch, input.size(1)), (batch, filters), (batch, *taps))
    return all(
        tensor is None or tensor.shape in (shape, shape[1:])
        for tensor, shape in zip((bias, *call.tensors[3:6]), per_sample, strict=True)
    )


def on_meta(tensor):
    """With its strides, which .to("meta") does not keep."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def order_in_memory(tensor):
    """The strides that decide where something lies: none in an empty tensor, and none of a dimension of size 1."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return [stride for size, stride in strides if size > 1 and tensor.numel() > 0]


ONE_PIXEL = build(Case("one pixel", (1, 1, 1, 1), 1, (1, 1), bias=False), torch.float64)


@settings(max_examples=300)
@given(call=calls())
@example(call=ONE_PIXEL)  # whose every tensor was changed to one dtype
def test_call_runs_or_gets_one_sentence(call):
    assume(not is_for_conv2d_alone(call))
    valid = is_valid(call)
    sentence = None
    try:
        output = conv2d(**call._asdict())
    except (TypeError, ValueError) as error:
        sentence = str(error)
        assert sentence.startswith("conv2d: ")
        assert "\n" not in sentence
    assert valid == (sentence is None), sentence

    for same_call in (call, truths.map_tensors(on_meta, call)):
        if sentence is None:
            fake = torch.ops.kerneldna.conv(*same_call)
            assert fake.shape == output.shape
            assert order_in_memory(fake) == order_in_memory(output)
        else:
            with pytest.raises(RuntimeError) as raised:
                torch.ops.kerneldna.conv(*same_call)
            assert str(raised.value) == sentence.replace("conv2d: ", "kerneldna::conv: ", 1)
