"""The op as a part of PyTorch on a card, by every backend: compiled, cast, mapped, in graphs, streams and threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kerneldna_ops import use_backend
from kerneldna_ops.call import Call
from kerneldna_ops.nn import SqueezeExcite
from support import gates, truths
from support.cases import LAST, PATTERNS, STATIC, Case, build, grad_output
from support.devices import CARDS, skip_unless_it_runs
from support.plain_layers import in_dtype
from support.tolerance import assert_within

# Else cuDNN, for composite, may add in another order each time.
pytestmark = pytest.mark.usefixtures("deterministic_mode", "threads")

conv = torch.ops.kerneldna.conv
squeeze_excite = torch.ops.kerneldna.squeeze_excite

CASE = Case("on_a_card", (3, 16, 5, 6), 24, padding=(1, 1), **LAST)
KINDS = {
    "per_sample": CASE,
    "published": CASE.but(**PATTERNS["published"]),
    "static": CASE.but(channel=STATIC, filter=STATIC, spatial=STATIC),
    "contiguous_stride_2x2": CASE.but(input_layout="contiguous", weight_layout="contiguous", stride=(2, 2)),
}
HALF = torch.float16  # the interpreter has no bfloat16
on_a_card = pytest.mark.on(*CARDS)
on_cuda = pytest.mark.on("cuda")
every_kind = pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
not_by_hand = pytest.mark.without_backends("reference")


@pytest.fixture
def example(device, backend):
    """The tensors of a call and the gradient of its output, with the backend in use."""
    call = build(CASE, HALF, device)
    skip_unless_it_runs(backend, call)
    with use_backend(backend):
        yield call, grad_output(CASE, HALF, device)


def step(call, grad, function=conv):
    """The output and all gradients."""
    leaves = truths.map_tensors(lambda tensor: tensor.detach().requires_grad_(), call)
    output = function(*leaves)
    gradients = torch.autograd.grad(output, [leaf for leaf in leaves.tensors if leaf is not None], grad)
    return [output.detach(), *gradients]


def of_conv(case, device, backend):
    call = build(case, HALF, device)
    skip_unless_it_runs(backend, call)

    def results(grad, *tensors):
        return step(Call(*tensors, *call.geometry), grad)

    return [grad_output(case, HALF, device), *call.tensors[:6]], results


def of_gate(device):
    return gates.arguments((3, 20, 5, 4), HALF, device=device), lambda *tensors: [squeeze_excite(*tensors)]


def of_gate_in_training(device):
    se, on = SqueezeExcite(20), {}

    def results(input, grad):
        layer = on.setdefault(input.device, in_dtype(se, HALF, input.device))
        input = input.detach().requires_grad_()
        gate = layer(input)
        return [gate.detach(), *torch.autograd.grad(gate, [input, *layer.parameters()], grad)]

    return [torch.randn(3, 20, 5, 4, device=device, dtype=HALF), torch.randn(3, 20, device=device, dtype=HALF)], results


@pytest.fixture(params=["dense", "depthwise", "gate", "gate in training"])
def work(request, device, backend):
    """Tensors, which a test may write to, and a function of them that gives outputs and gradients; with the backend in
    use."""
    with use_backend(backend):
        if request.param == "dense":
            yield of_conv(CASE, device, backend)
        elif request.param == "depthwise":
            yield of_conv(CASE.but(filters=16, groups=16), device, backend)
        elif request.param == "gate":
            yield of_gate(device)
        else:
            yield of_gate_in_training(device)


def assert_right(case, results, dtype, device):
    """Results of a step against the float64 truth."""
    output, *gradients = results
    given = iter(gradients)
    gradients = [None if tensor is None else next(given) for tensor in build(case).tensors]
    assert_within([output], [truths.output(case)], truths.plain_outputs(case, dtype, device))
    assert_within(gradients, truths.gradients(case), truths.plain_gradients(case, dtype, device))


def assert_same(results, expected):
    for result, value in zip(results, expected, strict=True):
        assert torch.equal(result.to(value.device), value)


@on_a_card
@every_kind
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_the_automatic_choice(device, case, half):
    assert_right(case, step(build(case, half, device), grad_output(case, half, device)), half, device)


@on_a_card
@not_by_hand
def test_opcheck(example):
    call, grad = example
    leaves = truths.map_tensors(lambda tensor: tensor.detach().requires_grad_(), call)
    torch.library.opcheck(conv.default, tuple(leaves))
    torch.library.opcheck(torch.ops.kerneldna.conv_backward.default, (grad, *call, [True] * 6))


@on_a_card
@not_by_hand
@every_kind
def test_compiled(device, backend, case):
    """Into one graph, with all gradients; on the stand-in without code generation, which test_registrations.py has."""
    torch._dynamo.reset()
    call, grad = build(case, HALF, device), grad_output(case, HALF, device)
    skip_unless_it_runs(backend, call)
    options = {} if device.type == "cuda" else {"backend": "aot_eager"}
    compiled = torch.compile(lambda *args: conv(*args), fullgraph=True, **options)
    with use_backend(backend):
        assert_right(case, step(call, grad, compiled), HALF, device)


@on_a_card
@not_by_hand
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(device, backend, low):
    """What tensors cast by hand give, bit by bit, and gradients in the precision of their tensors."""
    call, grad = build(CASE, torch.float32, device), grad_output(CASE, low, device)
    by_hand = truths.map_tensors(lambda tensor: tensor.to(low), call)
    skip_unless_it_runs(backend, by_hand)
    with use_backend(backend):
        with torch.autocast(device.type, dtype=low):
            output, *gradients = step(call, grad)
        expected, *expected_gradients = step(by_hand, grad)
    assert_same([output], [expected])
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert_same(gradients, [gradient.float() for gradient in expected_gradients])


@on_a_card
@not_by_hand
def test_vmap(example):
    """Over the batched inputs and channel attentions, with one weight."""
    call, _ = example
    inputs, attentions = (torch.stack([t, -t, t / 2]) for t in (call.input, call.channel_attention))

    def one(input, attention):
        return conv(*call._replace(input=input, channel_attention=attention))

    mapped = torch.func.vmap(one)(inputs, attentions)
    for result, sign in zip(mapped, (1, 1, 1 / 4), strict=True):  # each factor is a power of two: exact in any order
        without_bias = call._replace(bias=None)
        expected = conv(*without_bias) * sign + call.bias[:, None, None]
        torch.testing.assert_close(result, expected, rtol=4e-3, atol=4e-3)


@on_a_card
@not_by_hand
def test_a_step_on_a_thread_of_its_own(example, device, backend):
    """Autograd runs the backward of a card on yet another thread, which must know the backend and the device.

    Two at a time on a card; Triton's interpreter keeps in one place for all threads which program it is in.
    """
    call, grad = example
    expected = step(call, grad)

    def on_a_thread():
        with use_backend(backend):
            return step(call, grad)

    with ThreadPoolExecutor(2 if device.type == "cuda" else 1) as pool:
        for results in [pool.submit(on_a_thread) for _ in range(4)]:
            assert_same(results.result(), expected)


@on_cuda
@not_by_hand
def test_graph(work):
    """Captured once, replayed with other values in the same places."""
    tensors, run = work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(*tensors)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(*tensors)
    for tensor in tensors:
        tensor.mul_(-1.5)
    graph.replay()
    torch.cuda.synchronize()
    assert_same(results, run(*tensors))


@on_cuda
@not_by_hand
def test_graphed_callables(example):
    call, grad = example

    def tensors():
        return tuple(tensor.detach().clone().requires_grad_() for tensor in call.tensors[:6])

    graphed = torch.cuda.make_graphed_callables(lambda *given: conv(*given, *call.geometry), tensors())
    expected = step(call, grad)
    for _ in range(2):
        leaves = tensors()
        output = graphed(*leaves)
        gradients = torch.autograd.grad(output, leaves, grad)
        assert_same([output.detach(), *gradients], expected)


@on_cuda
@not_by_hand
def test_a_stream_that_is_not_the_default(work):
    """Behind work on that stream on which the tensors depend: what runs on another stream reads zeros."""
    tensors, run = work
    expected = run(*tensors)
    late = [torch.zeros_like(tensor) for tensor in tensors]
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        for tensor, value in zip(late, tensors, strict=True):
            tensor.copy_(value)
        results = run(*late)
    side.synchronize()
    assert_same(results, expected)


@on_cuda
@not_by_hand
def test_a_second_device(work, device):
    """While the first is the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    tensors, run = work
    second = torch.device("cuda", 1)
    assert torch.cuda.current_device() == device.index
    results = run(*(tensor.to(second) for tensor in tensors))
    assert {result.device for result in results} == {second}
    for result, expected in zip(results, run(*tensors), strict=True):
        torch.testing.assert_close(result.to(device), expected, rtol=4e-3, atol=4e-3)


@on_cuda
@not_by_hand
def test_nothing_waits_for_the_card(work):
    """A call that synchronises holds up the host, and cannot be captured."""
    tensors, run = work
    run(*tensors)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(*tensors)
    finally:
        torch.cuda.set_sync_debug_mode(before)
