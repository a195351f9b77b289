"""Forward-mode derivatives: against finite differences, and every order of modes against the reference's."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from kerneldna_ops.call import TENSORS
from kerneldna_ops.functional import conv2d, conv_transpose2d, modulated_conv2d
from kerneldna_ops.nn import DynamicConv2d
from kerneldna_ops.reference import conv2d_reference
from support import gates
from support.cases import ABSENT, SAMPLE, STATIC, Case, build, grad_output

pytestmark = pytest.mark.usefixtures("threads")

conv = torch.ops.kerneldna.conv
conv_backward = torch.ops.kerneldna.conv_backward

CASE = Case("tangents", (2, 4, 4, 3), 4, (2, 1), (2, 1), (1, 0), groups=2)
FORMS = {
    "per_sample": CASE,
    "static": CASE.but(channel=STATIC, filter=STATIC, spatial=STATIC),
    "plain": CASE.but(channel=ABSENT, filter=ABSENT, spatial=ABSENT),
    "depthwise_without_bias": CASE.but(groups=4, bias=False),
    "no_samples": CASE.but(input=(0, 4, 4, 3)),
    "mixed": CASE.but(kernels=3),
    "kernels_per_sample": CASE.but(kernels=SAMPLE, bias=SAMPLE),
}
every_form = pytest.mark.parametrize("case", FORMS.values(), ids=FORMS)


def function_and_tensors(case, op=conv):
    """The op as a function of the tensors that the case has."""
    call = build(case)
    given = {name: tensor for name, tensor in zip(TENSORS, call.tensors, strict=True) if tensor is not None}
    return lambda *tensors: op(*call._replace(**dict(zip(given, tensors, strict=True)))), tuple(given.values())


@every_form
def test_first_and_second_derivatives(case):
    function, tensors = function_and_tensors(case)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    forward = {"check_forward_ad": True, "check_backward_ad": False, "check_batched_forward_grad": True}
    gradcheck(function, leaves, fast_mode=True, **forward)
    gradgradcheck(function, leaves, fast_mode=True, check_fwd_over_rev=True)


@every_form
def test_jacobians_in_both_modes(case):
    function, tensors = function_and_tensors(case)
    which = tuple(range(len(tensors) if case.input[0] else 1))  # of no samples, torch has no more of F.conv2d either
    torch.testing.assert_close(jacfwd(function, which)(*tensors), jacrev(function, which)(*tensors))


HESSIANS = {
    "forward over reverse": (jacfwd, jacrev),
    "reverse over forward": (jacrev, jacfwd),
    "forward": (jacfwd, jacfwd),
}


@pytest.mark.parametrize("modes", HESSIANS.values(), ids=HESSIANS)
@pytest.mark.parametrize("form", ["per_sample", "static", "mixed"])
def test_hessians(modes, form):
    case = FORMS[form].but(input=(2, 2, 2, 2), filters=2, stride=(1, 1), padding=(0, 0), groups=1)

    def hessian(op, outer, inner):
        function, tensors = function_and_tensors(case, op)
        which = tuple(range(len(tensors)))
        return outer(inner(lambda *t: function(*t).sin().sum(), which), which)(*tensors)

    torch.testing.assert_close(hessian(conv, *modes), hessian(conv2d_reference, jacrev, jacrev))


def test_third_derivatives():
    function, tensors = function_and_tensors(CASE.but(input=(1, 2, 2, 2), filters=1, groups=1))

    def third(function):
        return jacfwd(jacrev(jacfwd(lambda c: function(*tensors[:3], c, *tensors[4:]).sin().sum())))(tensors[3])

    reference, _ = function_and_tensors(CASE.but(input=(1, 2, 2, 2), filters=1, groups=1), conv2d_reference)
    torch.testing.assert_close(third(function), third(reference))


@pytest.mark.parametrize("moving", TENSORS)
def test_one_tensor_alone_moves(moving):
    call = build(CASE.but(kernels=3))
    tensor = getattr(call, moving)

    def derivative(op):
        return jvp(lambda t: op(*call._replace(**{moving: t})), (tensor,), (tensor.cos(),))

    torch.testing.assert_close(derivative(conv), derivative(conv2d_reference))


def test_of_the_gradients_where_some_are_not_wanted():
    call, grad_of_output = build(CASE), grad_output(CASE)
    mask = [True, False, True, False, True, False]
    with forward_ad.dual_level():
        weight = forward_ad.make_dual(call.weight, call.weight.cos())
        grads = conv_backward(grad_of_output, *call._replace(weight=weight), mask)
        of_input, _, of_bias, _, of_f, *_ = (forward_ad.unpack_dual(grad).tangent for grad in grads)
    expected = conv_backward(grad_of_output, *call._replace(weight=call.weight.cos()), mask)
    torch.testing.assert_close((of_input, of_f), (expected[0], expected[4]))
    assert not of_bias.any()


def test_without_tangents_a_dual_level_changes_nothing():
    call = build(CASE)
    with forward_ad.dual_level():
        output = conv(*call)
        assert forward_ad.unpack_dual(output).tangent is None
    torch.testing.assert_close(output, conv(*call), rtol=0, atol=0)


def test_with_no_grad_and_float16_under_autocast():
    call = build(CASE, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        output, tangent = jvp(lambda x: conv(*call._replace(input=x)), (call.input,), (call.input.cos(),))
    assert output.dtype == tangent.dtype == torch.float16
    low = torch.float16
    without_bias = build(CASE, low)._replace(input=call.input.cos().to(low), bias=None)
    torch.testing.assert_close(tangent, conv(*without_bias))


def test_per_sample_directional_derivatives():
    call = build(CASE)._replace(channel_attention=None, filter_attention=None, spatial_attention=None)

    def derivative(op):
        def of(x):
            return grad(lambda x: jvp(lambda x: op(*call._replace(input=x[None])), (x,), (x.sin(),))[1].square().sum())(
                x
            )

        return vmap(of)(call.input)

    torch.testing.assert_close(derivative(conv), derivative(conv2d_reference))


def test_the_friendly_forms():
    x, weight = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    styles = torch.randn(2, 3, dtype=torch.float64)
    which = (0, 1)
    same = jacfwd(lambda x, w: conv2d(x, w, padding="same"), which)(x, weight)
    torch.testing.assert_close(same, jacfwd(lambda x, w: F.conv2d(x, w, padding="same"), which)(x, weight))
    of_styles = jacfwd(lambda styles: modulated_conv2d(x, weight, styles))(styles)
    torch.testing.assert_close(of_styles, jacrev(lambda styles: modulated_conv2d(x, weight, styles))(styles))


def test_squeeze_excite_refuses_to_be_differentiated():
    args = gates.arguments((2, 8, 3, 3), torch.float64)

    def gate(input):
        return torch.ops.kerneldna.squeeze_excite(input, *args[1:])

    sentence = r"^kerneldna::squeeze_excite has no {}: it is for inference"
    with pytest.raises(RuntimeError, match=sentence.format("forward-mode derivative")):
        jvp(gate, (args[0],), (args[0],))
    with pytest.raises(RuntimeError, match=sentence.format("backward")):
        grad(lambda input: gate(input).sum())(args[0])


COMPILED = {
    "alone": lambda x, w, layer: conv2d(x, w, padding=1),
    "in a sum": lambda x, w, layer: x + conv2d(x, w, padding=1),
    "transposed": lambda x, w, layer: x + conv_transpose2d(x, w, padding=1),
    "modulated": lambda x, w, layer: x + modulated_conv2d(x, w, x.mean((2, 3)), padding=1),
    "a layer": lambda x, w, layer: x + layer(x),
}


def compiled(function):
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend="eager")


@pytest.mark.parametrize("form", COMPILED)
def test_compiled(form):
    """The graph of a transform enters its level in C++, where torch.autograd.forward_ad does not see it."""
    x, t, w = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3)
    layer = DynamicConv2d(2, 2, 3, padding=1).requires_grad_(False)

    def function(x):
        return COMPILED[form](x, w, layer)

    def derivatives(x, t):
        sine = hessian(lambda x: function(x).sin().sum())
        return jvp(function, (x,), (t,))[1], jacfwd(function)(x), sine(x)

    torch.testing.assert_close(compiled(derivatives)(x, t), derivatives(x, t))


@pytest.mark.parametrize("gradients", [True, False])
def test_a_compiled_level_is_refused(gradients):
    x, t, w = (torch.randn(2, 2, 3, 3) for _ in range(3))
    w.requires_grad_(gradients)

    def tangent(x, t):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(conv2d(forward_ad.make_dual(x, t), w)).tangent

    with pytest.raises(RuntimeError, match=r"kerneldna_ops: torch\.autograd\.forward_ad\.dual_level does not compile"):
        compiled(tangent)(x, t)
    convolution = compiled(lambda x: x + conv2d(x, w, padding=1))
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(convolution(forward_ad.make_dual(x, t))).tangent
    torch.testing.assert_close(found, t + conv2d(t, w, padding=1))
