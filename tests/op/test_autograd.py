"""Derivatives of any order against finite differences, and the transforms that end in one."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from kerneldna_ops import backends, use_backend
from kerneldna_ops.call import TENSORS
from kerneldna_ops.reference import conv2d_reference
from support.cases import ABSENT, CPU, SAMPLE, STATIC, Case, build, grad_output
from support.devices import skip_unless_it_runs

pytestmark = pytest.mark.usefixtures("threads")

conv = torch.ops.kerneldna.conv

CASE = Case("derivatives", (2, 4, 4, 3), 6, (3, 2), (2, 1), (1, 0), groups=2)
FORMS = {
    "per_sample": {},
    "static": {"channel": STATIC, "filter": STATIC, "spatial": STATIC},
    "plain": {"channel": ABSENT, "filter": ABSENT, "spatial": ABSENT},
    "spatial_only": {"channel": ABSENT, "filter": ABSENT, "bias": False},
    "depthwise": {"filters": 4, "groups": 4},
    "mixed": {"kernels": 3},
    "kernels_per_sample": {"kernels": SAMPLE, "bias": SAMPLE},
}


def function_and_leaves(case, device=CPU):
    """The op as a function of the tensors that the case has."""
    call = build(case, device=device)
    given = {name: tensor for name, tensor in zip(TENSORS, call.tensors, strict=True) if tensor is not None}
    leaves = [tensor.requires_grad_() for tensor in given.values()]
    return lambda *tensors: conv(*call._replace(**dict(zip(given, tensors, strict=True)))), leaves


# gradcheck needs float64, for which the Triton backend has no kernel.
@pytest.mark.without_backends("triton")
@pytest.mark.parametrize("form", FORMS)
def test_first_and_second_derivatives(device, backend, form):
    case = CASE.but(**FORMS[form])
    skip_unless_it_runs(backend, build(case, device=device))
    function, leaves = function_and_leaves(case, device)
    with use_backend(backend):
        gradcheck(function, leaves, fast_mode=True)
        gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("form", ["per_sample", "static", "mixed"])
def test_third_derivatives(form):
    function, leaves = function_and_leaves(CASE.but(**FORMS[form]))

    def gradients(*tensors):
        return torch.autograd.grad(function(*tensors).square().sum(), tensors, create_graph=True)

    gradgradcheck(gradients, leaves, fast_mode=True)


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "spatial_attention"])
def test_second_derivatives_through_one_gradient_alone(name):
    """The other gradients of the first backward do not exist: it gets neither them nor their gradients."""
    call, grad = build(CASE.but(kernels=3)), grad_output(CASE).requires_grad_()
    leaf = getattr(call, name).requires_grad_()
    (first,) = torch.autograd.grad(conv(*call), leaf, grad, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), grad)

    (first,) = torch.autograd.grad(conv2d_reference(*call), leaf, grad, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), grad)
    torch.testing.assert_close(second, expected)


def test_an_autocast_region_around_the_second_backward_changes_nothing():
    call = build(CASE, torch.float32)
    input, c = call.input.requires_grad_(), call.channel_attention.requires_grad_()

    def second():
        (first,) = torch.autograd.grad(output.square().sum(), input, create_graph=True)
        return torch.autograd.grad(first.square().sum(), c)

    output = conv(*call)
    expected = second()
    output = conv(*call)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(second(), expected, rtol=0, atol=0)


def test_no_graph_is_kept_without_need():
    call = build(CASE)
    assert conv(*call).grad_fn is None
    leaf = call.input.requires_grad_()
    with torch.no_grad():
        assert conv(*call).grad_fn is None
    (grad,) = torch.autograd.grad(conv(*call).sum(), leaf)
    assert grad.grad_fn is None


def test_inference_mode():
    call = build(CASE)
    with torch.inference_mode():
        output = conv(*call)
    assert output.is_inference()
    torch.testing.assert_close(output, conv(*call))


def test_the_bias_may_change_before_backward():
    """As in F.conv2d: no gradient depends on its values."""
    call = build(CASE)
    bias = call.bias.clone().requires_grad_()
    input = call.input.clone().requires_grad_()
    output = conv(*call._replace(input=input, bias=bias))
    expected = torch.autograd.grad(output.square().sum(), (input, bias), retain_graph=True)
    with torch.no_grad():
        bias.add_(1)
    found = torch.autograd.grad(output.square().sum(), (input, bias), create_graph=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with torch.no_grad():
        bias.add_(1)
    found[0].square().sum().backward()


@pytest.mark.parametrize("create_graph", [False, True])
def test_an_autocast_region_around_the_backward_alone_does_not_reach_the_backend(monkeypatch, create_graph):
    """Whichever operators a backend is made of: some run in another precision under autocast."""
    composite, dtypes = backends.composite, []
    original, matrix = composite.conv_backward, torch.ones(2, 2)
    monkeypatch.setattr(
        composite, "conv_backward", lambda *args: dtypes.append((matrix @ matrix).dtype) or original(*args)
    )
    call = build(CASE, torch.float32)
    leaf = call.input.requires_grad_()
    with use_backend("composite"):
        loss = conv(*call).square().sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.autograd.grad(loss, leaf, create_graph=create_graph)
    assert dtypes == [torch.float32]
