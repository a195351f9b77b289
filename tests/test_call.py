"""What a call says of itself, against the catalogue that it was made of and against what F.conv2d makes of it."""

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.call import ATTENTIONS, BackwardCall, Call, arguments_of, kind_of, tensors_of
from support import layouts
from support.cases import CASES, SAMPLE, STATIC, SUBSETS, build, named


@pytest.mark.parametrize("case", SUBSETS, ids=str)
def test_kinds(case):
    call = build(case)
    assert [call.kind(field) for field in ATTENTIONS] == [case.channel, case.filter, case.spatial]
    for field in ATTENTIONS:
        static, per_sample = call.by_kind(field)
        assert static is (getattr(call, field) if call.kind(field) == STATIC else None)
        assert per_sample is (getattr(call, field) if call.kind(field) == SAMPLE else None)


def test_a_dimension_of_vmap_is_none_of_a_kind():
    for field, static in zip(ATTENTIONS, [(3,), (3,), (3, 3)], strict=True):
        assert kind_of(field, torch.ones(7, *static), leading_dims=1) == STATIC
        assert kind_of(field, torch.ones(7, *static)) == SAMPLE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_size_of_the_output(case):
    call = build(case)
    weight = call.weight.new_zeros(call.kernel_shape)
    assert call.output_shape == F.conv2d(call.input, weight, None, *call.geometry).shape


def test_a_kernel_that_does_not_fit_has_no_output():
    call = Call(torch.ones(2, 3, 4, 5), torch.ones(6, 3, 9, 1), dilation=(1, 2**40))
    assert call.output_shape == (2, 6, 0, 5)


def test_depthwise_is_a_channel_for_each_group_of_several():
    depthwise = [case.name for case in CASES if build(case).depthwise]
    assert depthwise == [case.name for case in CASES if "depthwise" in case.name]
    assert not build(named("one_channel")).depthwise


@pytest.mark.parametrize("layout", layouts.IMAGES)
def test_memory_formats_are_those_of_the_op(layout):
    call = build(named("kernel_3x3_padding_1x1").but(input_layout=layout))
    output = torch.ops.kerneldna.conv(*call)
    assert output.is_contiguous(memory_format=call.memory_format)
    backward = BackwardCall(torch.ones_like(output), call, [*[True, False] * 3, False])
    grads = torch.ops.kerneldna.conv_backward(*backward.arguments)
    for grad, wanted, memory_format in zip(grads, backward.output_mask, backward.memory_formats, strict=True):
        assert (memory_format is not None) is wanted
        assert not wanted or grad.is_contiguous(memory_format=memory_format)


def test_what_the_dispatcher_leaves_out_comes_back():
    call = build(named("kernel_1x1"))
    assert Call(*call[:2])[2:] == (None, None, None, None, (1, 1), (0, 0), (1, 1), 1, None)
    assert tensors_of("xw") == ("x", "w", None, None, None, None, None)
    assert tensors_of(range(11)) == (0, 1, 2, 3, 4, 5, 10)
    assert arguments_of(tensors_of(range(11)), range(6, 10)) == tuple(range(11))
    assert BackwardCall.of(None, *call, [True] * 6) == BackwardCall(None, call, [*[True] * 6, False])
