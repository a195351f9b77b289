"""Autocast treats the op as it treats F.conv2d."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kerneldna_ops.functional import conv2d
from kerneldna_ops.op import autocast
from support.cases import build, named

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


# A parameter that several calls share


@pytest.fixture
def casts(monkeypatch):
    """The shapes of the tensors that were cast, in order."""

    class Casting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float32:
                shapes.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    shapes = []
    with Casting():
        yield shapes


PARENT = (4, 3, 3, 3)


def parent():
    return nn.Parameter(torch.randn(PARENT))


def children(weight, count=3):
    """So many convolutions with one parent, the image of each for itself."""
    total = 0.0
    for scale in range(1, count + 1):
        input = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(scale))
        total = total + conv2d(input, weight, filter_attention=torch.full((2, 4), float(scale))).float().sum()
    return total


def test_a_parent_is_cast_once_for_all_its_children(casts):
    weight = parent()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        children(weight)
        assert casts.count(PARENT) == 1
        children(weight).backward()
        assert casts.count(PARENT) == 1
    expected = nn.Parameter(weight.detach().clone())
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        children(expected).backward()
    torch.testing.assert_close(weight.grad, expected.grad, rtol=1e-2, atol=1e-2)


def test_a_parent_that_was_changed_is_cast_again(casts):
    weight = parent()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = children(weight)
        with torch.no_grad():
            weight.mul_(2)
        after = children(weight)
    assert casts.count(PARENT) == 2
    torch.testing.assert_close(after, 2 * before, rtol=1e-2, atol=1e-2)
    (gradient,) = torch.autograd.grad(after, weight)
    assert gradient.isfinite().all()


def test_each_region_casts_for_itself_and_keeps_nothing():
    weight = parent()
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            children(weight)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                children(weight)
            kept = autocast._current()
            assert [source for source, *_ in kept.values()] == [weight]
            alive = weakref.ref(kept)
            del kept
        assert alive() is None


def test_regions_of_two_dtypes_have_two_casts(casts):
    weight = parent()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        children(weight)
        with torch.autocast("cpu", dtype=torch.float16):
            children(weight)
        children(weight)
    assert casts.count(PARENT) == 2


def test_a_cast_without_gradient_is_not_taken_for_training(casts):
    weight = parent()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.inference_mode():
            children(weight)
        with torch.no_grad():
            children(weight)
        before = casts.count(PARENT)
        children(weight).backward()
    assert casts.count(PARENT) == before + 1
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("why", ["cache off", "no gradient wanted", "no leaf"])
def test_what_pytorch_would_not_keep_is_cast_each_time(casts, why):
    weight = parent()
    if why == "no gradient wanted":
        weight = weight.detach()
    if why == "no leaf":
        weight = weight * 1
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=why != "cache off"):
        children(weight)
    assert casts.count(PARENT) == 3


def test_the_second_derivative_through_a_shared_cast():
    weight = parent()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        input = torch.randn(2, 3, 5, 6, requires_grad=True)
        outputs = [conv2d(input, weight, filter_attention=torch.full((2, 4), s)) for s in (1.0, 2.0)]
        total = sum(output.float().square().sum() for output in outputs)
        (first,) = torch.autograd.grad(total, input, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weight)
    exact = weight.detach().requires_grad_()
    total = sum(conv2d(input, exact, filter_attention=torch.full((2, 4), s)).square().sum() for s in (1.0, 2.0))
    (first,) = torch.autograd.grad(total, input, create_graph=True)
    (truth,) = torch.autograd.grad(first.square().sum(), exact)
    assert (second - truth).norm() < 0.05 * truth.norm()


def test_compiled_training_with_a_shared_parent():
    torch._dynamo.reset()
    weight = parent()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        children(weight)  # its cast is at hand when the graph is traced
        compiled = torch.compile(children, fullgraph=False, backend="aot_eager")
        compiled(weight).backward()
    expected = nn.Parameter(weight.detach().clone())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        children(expected).backward()
    torch.testing.assert_close(weight.grad, expected.grad, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_with_a_shared_parent():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = parent()

        def forward(self, input):
            return conv2d(conv2d(input, self.weight)[:, :3], self.weight)

    module = Shared()
    input, other = torch.randn(2, 3, 6, 6), torch.randn(3, 3, 7, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(input)  # the cast is at hand
        trace = torch.jit.trace(module, input)
        torch.testing.assert_close(trace(other), module(other), rtol=1e-2, atol=1e-2)
