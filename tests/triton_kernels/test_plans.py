"""Plans: a call like one before decides nothing again, and all on which a decision depends is in its signature."""

import sys
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.launch_overhead import operands, without_launches
from kerneldna_ops import autotune, backends, use_backend
from kerneldna_ops.backends import _autotune, _plans, _tuned, composite, triton
from kerneldna_ops.triton_kernels.failure import KernelFailure
from support.cases import Case, build, grad_output, named

pytestmark = pytest.mark.usefixtures("threads", "interpreted")

CASE = named("kernel_3x3_padding_1x1")
CALL = build(CASE, torch.float32)
GRAD = grad_output(CASE, torch.float32)
conv, conv_backward = torch.ops.kerneldna.conv, torch.ops.kerneldna.conv_backward


@pytest.fixture
def selected(monkeypatch):
    """The functions for which a backend was selected, in order."""
    functions = []
    original = backends.select
    monkeypatch.setattr(backends, "select", lambda call: functions.append(call.function) or original(call))
    return functions


@pytest.mark.parametrize("backend", ["triton", "composite"])
def test_a_call_like_one_before_selects_nothing(selected, backend):
    leaves = [tensor.clone().requires_grad_() for tensor in CALL[:6]]
    with use_backend(backend):
        outputs = []
        for _ in range(2):
            outputs.append(conv(*CALL))
            outputs.append(conv(*leaves, *CALL[6:]))
            outputs[-1].backward(GRAD)
            with torch.inference_mode():
                outputs.append(conv(*CALL))
    assert selected == ["conv", "conv_backward"]
    for output in outputs:
        torch.testing.assert_close(output, outputs[0])


def test_values_of_another_call_are_its_own():
    with use_backend("triton"):
        conv(*CALL)
        other = CALL._replace(input=2 * CALL.input, channel_attention=CALL.channel_attention + 1)
        actual = conv(*other)
    with use_backend("composite"):
        torch.testing.assert_close(actual, conv(*other))


def in_memory_as(tensor, *order):
    """The same values, the axes in memory in another order."""
    return tensor.permute(order).contiguous().permute(*torch.tensor(order).argsort().tolist())


CHANGES = {
    "batch": {"input": CALL.input[:1], "channel_attention": None, "filter_attention": None, "spatial_attention": None},
    "size": {"input": CALL.input[:, :, :5].contiguous()},
    "channels_last": {"input": CALL.input.contiguous(memory_format=torch.channels_last)},
    "strides": {"input": CALL.input.repeat(1, 1, 1, 2)[..., ::2]},
    "layout of the weight": {"weight": CALL.weight.contiguous(memory_format=torch.channels_last)},
    "layout of an attention": {"channel_attention": in_memory_as(CALL.channel_attention, 1, 0)},
    "layout of another": {"spatial_attention": in_memory_as(CALL.spatial_attention, 1, 2, 0)},
    "filters": {"weight": CALL.weight[:4], "bias": CALL.bias[:4], "filter_attention": CALL.filter_attention[:, :4]},
    "no bias": {"bias": None},
    "no channel attention": {"channel_attention": None},
    "static channel attention": {"channel_attention": CALL.channel_attention[0]},
    "static filter attention": {"filter_attention": CALL.filter_attention[0]},
    "static spatial attention": {"spatial_attention": CALL.spatial_attention[0]},
    "no spatial attention": {"spatial_attention": None},
    "stride": {"stride": (2, 1)},
    "padding": {"padding": (0, 1)},
    "dilation": {"dilation": (1, 2)},
    "dtype": {name: getattr(CALL, name).half() for name in CALL._fields[:6]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_another_signature(selected, change):
    other = CALL._replace(**CHANGES[change])
    with use_backend("triton"):
        conv(*CALL)
        actual = conv(*other)
        assert selected == ["conv", "conv"]
        conv(*other)
        assert selected == ["conv", "conv"]
    with use_backend("composite"):
        expected = conv(*other)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if change == "dtype" else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(actual, expected, **tolerance)
    assert actual.stride() == expected.stride()


def test_each_backend_has_its_plans(selected):
    for _ in range(2):
        for name in ("triton", "composite", "reference"):
            with use_backend(name):
                conv(*CALL)
    assert len(selected) == 3


def test_other_gradients_are_another_signature(selected):
    with use_backend("triton"):
        for mask in ([True] * 6, [True, False] * 3, [True] * 6):
            found = conv_backward(GRAD, *CALL, mask)
            assert [bool(grad.numel()) for grad in found] == [*mask, False]
    assert len(selected) == 2


def test_the_precision_is_in_the_signature(selected):
    before = torch.backends.cudnn.allow_tf32
    with use_backend("triton"):
        for allowed in (False, True, False):
            torch.backends.cudnn.allow_tf32 = allowed
            conv(*CALL)
    torch.backends.cudnn.allow_tf32 = before
    assert len(selected) == 2


def test_a_misaligned_tensor_has_no_plan(selected):
    input = torch.randn(CALL.input.numel() + 1)[1:].view_as(CALL.input)
    with use_backend("triton"):
        for _ in range(2):
            conv(*CALL._replace(input=input))
    assert len(selected) == 2


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KERNELDNA_CACHE", str(tmp_path))
    monkeypatch.setattr(_autotune, "measure", lambda run, device: run() is None)
    _tuned.table.cache_clear()
    yield
    _tuned.table.cache_clear()


def test_a_tuned_call_is_planned_anew_and_the_tuner_is_not_asked_again(cache, selected):
    with use_backend("triton"):
        conv(*CALL)
        with autotune():
            conv(*CALL)
            assert len(selected) == 2
            conv(*CALL)
            assert len(selected) == 2
        conv(*CALL)
    assert len(selected) == 3


def test_what_could_not_be_tuned_is_asked_for_again(cache, selected, monkeypatch):
    monkeypatch.setattr(_autotune, "tune_and_keep", lambda *call: None)  # as while a graph is captured
    with use_backend("triton"), autotune():
        for _ in range(2):
            conv(*CALL)
    assert len(selected) == 2


def test_a_backend_that_fails_later_leaves_the_call_to_the_next(monkeypatch):
    monkeypatch.setattr(backends, "AUTOMATIC", ("triton", "composite"))
    monkeypatch.setattr(backends._winners, "winner_of", lambda call: None)
    monkeypatch.setattr(backends, "_refused", {})
    fail = False

    def prepared(first, options):
        def run(call):
            if fail:
                raise KernelFailure("it is out of order", out_of_resources=False)
            return composite.conv(call)

        return run

    monkeypatch.setattr(triton, "_prepared", prepared)
    expected = backends.conv(CALL)
    fail = True
    for _ in range(2):
        torch.testing.assert_close(backends.conv(CALL), expected)
    assert backends.refusal("triton", "conv", _tuned.key_of(CALL)) == "it is out of order"


def test_plans_are_bounded(monkeypatch):
    monkeypatch.setattr(_plans, "_MOST", 3)
    with use_backend("composite"):
        for size in range(1, 9):
            conv(torch.ones(1, 1, size, 1), torch.ones(1, 1, 1, 1))
            assert len(_plans._plans) <= 3


@pytest.mark.parametrize("backend", ["triton", "composite"])
def test_a_plan_keeps_no_tensor(backend):
    input = CALL.input.clone().requires_grad_()
    alive = weakref.ref(input)
    with use_backend(backend):
        conv(input, *CALL[1:]).backward(GRAD)
    del input
    assert _plans._plans
    assert alive() is None


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("form", ["P", "S", "M"])
def test_every_form_takes_the_operands_in_both_layouts(form, layout):
    """Where their memory is in order the kernels get them as they stand, whatever their shape says."""
    case = Case("form", (3, 24, 5, 6), 16, padding=(1, 1))
    call = build(case, torch.float16)
    if layout == "channels_last":
        as_pixels = {
            name: getattr(call, name).contiguous(memory_format=torch.channels_last) for name in ("input", "weight")
        }
        call = call._replace(**as_pixels)
    tile = {"block_m": 16, "block_n": 16, "block_k": 32, "num_warps": 4, "num_stages": 2}
    box = {"P": None, "S": (1, 4, 4), "M": (4, 2, 2)}[form]
    actual = triton.run(call, {"form": form, "box": box, **tile})
    torch.testing.assert_close(actual, composite.conv(call), rtol=1e-2, atol=1e-2)


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.ops.append(op)
        return op(*args, **(kwargs or {}))


def test_modes_and_transforms_see_the_op_though_it_has_a_plan():
    with use_backend("triton"):
        expected = conv(*CALL)
        with Seen() as seen:
            torch.testing.assert_close(conv(*CALL), expected)
        assert conv.default in seen.ops
        mapped = torch.func.vmap(lambda input: conv(input, *CALL[1:]))(CALL.input[None])
        torch.testing.assert_close(mapped[0], expected)
        gradient = torch.func.grad(lambda input: conv(input, *CALL[1:]).sum())(CALL.input)
        assert gradient.shape == CALL.input.shape
        negative = conv(torch._neg_view(CALL.input), *CALL[1:])
        torch.testing.assert_close(negative - CALL.bias[:, None, None], CALL.bias[:, None, None] - expected)
        with torch._subclasses.FakeTensorMode() as mode:
            fake = conv(*(mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in CALL))
        assert type(fake) is torch._subclasses.FakeTensor


# The way from the op to a launch, in Python's calls: from the dispatcher on, whatever the machine.
MOST_CALLS = 36


def calls_in_python(run):
    names = []
    sys.setprofile(lambda frame, event, arg: event == "call" and names.append(frame.f_code.co_name))
    try:
        run()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_way_to_a_launch_is_short(dtype):
    args = operands(dtype)
    with without_launches() as kernels, torch.no_grad():
        for _ in range(2):
            conv(*args)
        names = calls_in_python(lambda: conv.default(*args))
    assert len(names) <= MOST_CALLS, " ".join(names)
    assert len(kernels["conv_kernel"].direct) == 2
