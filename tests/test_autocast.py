"""Autocast treats the op as it treats F.conv2d."""

import pytest
import torch
import torch.nn.functional as F

from cases import build, named
from kerneldna_ops.functional import conv2d

pytestmark = pytest.mark.usefixtures("threads")

CALL = build(named("groups_2"), torch.float32)
LOW = [torch.bfloat16, torch.float16]
every_low = pytest.mark.parametrize("low", LOW, ids=str)


def conv2d_of_torch(input, weight, bias):
    return F.conv2d(input, weight, bias, CALL.stride, CALL.padding, CALL.dilation, CALL.groups)


def with_attentions(input, weight, bias):
    return conv2d(**CALL._replace(input=input, weight=weight, bias=bias)._asdict())


@every_low
@pytest.mark.parametrize("input", [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("weight", [torch.float32, *LOW], ids=str)
def test_dtypes_are_those_of_conv2d(low, input, weight):
    found = []
    for function in (conv2d_of_torch, with_attentions):
        tensors = [CALL.input.to(input), CALL.weight.to(weight), CALL.bias]
        tensors = [tensor.clone().requires_grad_() for tensor in tensors]
        with torch.autocast("cpu", dtype=low):
            output = function(*tensors)
        grads = torch.autograd.grad(output.float().sum(), tensors)
        found.append([output.dtype, *(grad.dtype for grad in grads)])
    assert found[0] == found[1]


def test_float64_alone_stays_and_does_not_mix():
    call = build(named("groups_2"), torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv2d(**call._asdict()).dtype == torch.float64
        assert conv2d_of_torch(*call[:3]).dtype == torch.float64
        with pytest.raises(RuntimeError):
            conv2d_of_torch(call.input, *CALL[1:3])
        with pytest.raises(TypeError, match=r"^conv2d: weight must have the dtype of input \(float64\), got bfloat16$"):
            conv2d(**CALL._replace(input=call.input)._asdict())


@every_low
def test_output_is_that_of_tensors_cast_by_hand(low):
    by_hand = CALL._replace(**{name: getattr(CALL, name).to(low) for name in CALL._fields[:6]})
    with torch.autocast("cpu", dtype=low):
        output = conv2d(**CALL._asdict())
    torch.testing.assert_close(output, conv2d(**by_hand._asdict()), rtol=0, atol=0)


def test_a_disabled_region_casts_nothing():
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert conv2d(**CALL._asdict()).dtype == torch.float32


def test_backward_inside_the_region():
    input = CALL.input.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = with_attentions(input, *CALL[1:3])
        (inside,) = torch.autograd.grad(output.sum(), input, retain_graph=True)
    (outside,) = torch.autograd.grad(output.sum(), input)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_compiled():
    torch._dynamo.reset()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = torch.compile(conv2d, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(**CALL._asdict()), conv2d(**CALL._asdict()), rtol=0, atol=0)


def test_squeeze_excite():
    args = [torch.randn(shape) for shape in ((2, 8, 5, 4), (2, 8), (2,), (8, 2), (8,))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gate = torch.ops.kerneldna.squeeze_excite(*args)
    assert gate.dtype == torch.bfloat16
    by_hand = torch.ops.kerneldna.squeeze_excite(*(arg.bfloat16() for arg in args))
    torch.testing.assert_close(gate, by_hand, rtol=0, atol=0)
