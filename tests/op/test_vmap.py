"""torch.func: vmap, grad, and one inside the other, against a loop over plain PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jacrev, vmap

from kerneldna_ops import backends, compatible_backends, use_backend
from kerneldna_ops.call import Call
from kerneldna_ops.functional import conv2d
from kerneldna_ops.reference import conv2d_reference
from support import gates
from support.cases import SAMPLE, STATIC, Case, build, grad_output, named

pytestmark = pytest.mark.usefixtures("threads")

conv = torch.ops.kerneldna.conv
conv_backward = torch.ops.kerneldna.conv_backward

ENTRIES = 3
CASE = named("kernel_3x2_stride_2x1_padding_1x0_dilation_2x1").but(input=(2, 6, 7, 5))
FORMS = {
    "per_sample": CASE,
    "static": CASE.but(channel=STATIC, filter=STATIC, spatial=STATIC),
    "static_s": CASE.but(spatial=STATIC),
    "dense": CASE.but(groups=1, channel=STATIC, spatial=STATIC),
    "one_sample": CASE.but(input=(1, 6, 7, 5)),
    "mixed": CASE.but(kernels=3),
    "mixed_one_sample": CASE.but(input=(1, 6, 7, 5), kernels=2, spatial=STATIC),
    "given": CASE.but(kernels=SAMPLE, bias=SAMPLE),
    "given_static": CASE.but(kernels=SAMPLE, channel=STATIC, filter=STATIC, spatial=STATIC),
    "bias_per_sample": CASE.but(bias=SAMPLE),
    "no_samples": CASE.but(input=(0, 6, 7, 5)),
    "no_samples_static": CASE.but(input=(0, 6, 7, 5), channel=STATIC, filter=STATIC, spatial=STATIC),
}
every_form = pytest.mark.parametrize("case", FORMS.values(), ids=FORMS)
# Which of input, weight, bias, c, f, s, a have a vmapped dimension: each alone, and what has most paths to mix. Where
# there is no kernel attention, the last one says nothing.
BATCHED = [*("0" * i + "1" + "0" * (6 - i) for i in range(7)), "1111111", "1001110", "1000101", "0101011", "1010100"]


def batch(call, batched):
    """The tensors, those that are batched with a new second dimension, and the in_dims that say so."""
    batched = [bit == "1" and tensor is not None for bit, tensor in zip(batched, call.tensors, strict=True)]
    if not any(batched):
        batched[0] = True
    tensors = [
        torch.stack([tensor, -tensor, tensor / 2], dim=1) if is_batched else tensor
        for tensor, is_batched in zip(call.tensors, batched, strict=True)
    ]
    return tensors, tuple(1 if is_batched else None for is_batched in batched)


def entries(tensors, dims):
    for b in range(ENTRIES):
        yield [tensor if dim is None else tensor.select(dim, b) for tensor, dim in zip(tensors, dims, strict=True)]


@every_form
def test_output_for_every_choice_of_batched_tensors(device, case):
    call = build(case, device=device)
    for batched in BATCHED:
        tensors, dims = batch(call, batched)
        output = vmap(lambda *t: conv(*Call.of(t, call.geometry)), dims)(*tensors)
        each = [conv2d_reference(*Call.of(entry, call.geometry)) for entry in entries(tensors, dims)]
        expected = torch.stack(each)
        torch.testing.assert_close(output, expected, msg=lambda m, batched=batched: f"{batched}: {m}")


@every_form
@pytest.mark.parametrize("wanted", [(0, 3, 4, 5), (0, 1, 2, 3, 4, 5, 6), (1,), (2,), (5,), (6,)], ids=str)
def test_gradients_for_every_choice_of_batched_tensors(device, case, wanted):
    call = build(case, device=device)
    wanted = tuple(i for i in wanted if call.tensors[i] is not None) or (0,)

    def of(op):
        return grad(lambda *tensors: op(*Call.of(tensors, call.geometry)).square().sum(), wanted)

    for batched in BATCHED:
        tensors, dims = batch(call, batched)
        grads = vmap(of(conv), dims)(*tensors)
        expected = [of(conv2d_reference)(*entry) for entry in entries(tensors, dims)]
        expected = tuple(torch.stack(column) for column in zip(*expected, strict=True))
        torch.testing.assert_close(grads, expected, msg=lambda m, batched=batched: f"{batched}: {m}")


def test_backward_with_a_batch_of_output_gradients_alone():
    call, mask = build(CASE), [True, False, False, True, True, True]
    grads = torch.stack([grad_output(CASE), -grad_output(CASE)])
    batched = vmap(lambda g: conv_backward(g, *call, mask)[3])(grads)
    torch.testing.assert_close(batched, torch.stack([conv_backward(g, *call, mask)[3] for g in grads]))


def test_vmap_of_vmap():
    call = build(CASE)
    c = torch.randn(2, 3, *call.channel_attention.shape, dtype=torch.float64)
    output = vmap(vmap(lambda c: conv(*call._replace(channel_attention=c))))(c)
    expected = [[conv2d_reference(*call._replace(channel_attention=c)) for c in row] for row in c]
    torch.testing.assert_close(output, torch.stack([torch.stack(row) for row in expected]))


# Which tensors have an entry each -> the channels and the filters, or the samples, of the one call for all entries.
ONE_CALL = {
    "input": ([ENTRIES * 2, 6, 7, 5], [4, 6, 3, 2]),
    "input channel_attention filter_attention": ([ENTRIES * 2, 6, 7, 5], [4, 6, 3, 2]),
    "weight": ([2, 6, 7, 5], [ENTRIES * 4, 6, 3, 2]),
    "weight filter_attention spatial_attention": ([2, 6, 7, 5], [ENTRIES * 4, 6, 3, 2]),
    "weight input": ([2, ENTRIES * 6, 7, 5], [ENTRIES * 4, 6, 3, 2]),
    "weight channel_attention bias": ([2, ENTRIES * 6, 7, 5], [ENTRIES * 4, 6, 3, 2]),
}


@pytest.mark.parametrize("names", ONE_CALL)
def test_entries_are_one_call(monkeypatch, names):
    shapes, composite = [], backends.composite
    original = composite.conv
    monkeypatch.setattr(
        composite, "conv", lambda call: shapes.append(tuple([*t.shape] for t in call[:2])) or original(call)
    )
    call = build(FORMS["dense"].but(input=(2, 6, 7, 5)))
    stacked = {name: torch.stack([getattr(call, name)] * ENTRIES) for name in names.split()}
    with use_backend("composite"):
        vmap(lambda stacked: conv(*call._replace(**stacked)))(stacked)
    assert shapes == [ONE_CALL[names]]


def test_large_inputs_are_a_call_per_entry(monkeypatch):
    """As a copy of them all costs more than the calls; of one sample there is none."""
    shapes, composite = [], backends.composite
    original = composite.conv
    monkeypatch.setattr(composite, "conv", lambda call: shapes.append([*call.input.shape]) or original(call))
    weights = torch.randn(ENTRIES, 2, 3, 3, 3)
    for samples in (2, 1):
        inputs = torch.randn(ENTRIES, samples, 3, 80, 90)
        with use_backend("composite"):
            output = vmap(conv)(inputs, weights)
        torch.testing.assert_close(
            output, torch.stack([F.conv2d(*entry) for entry in zip(inputs, weights, strict=True)])
        )
    assert shapes == [[2, 3, 80, 90]] * ENTRIES + [[ENTRIES, 3, 80, 90]]


def loss(op, call, **replaced):
    return op(*call._replace(**replaced)).sin().sum()


def test_gradients_of_each_sample():
    call = build(CASE)._replace(filter_attention=None, spatial_attention=None, channel_attention=None)

    def gradient(op):
        return grad(lambda weight, sample: loss(op, call, weight=weight, input=sample[None]))

    per_sample = vmap(gradient(conv), (None, 0))(call.weight, call.input)
    torch.testing.assert_close(
        per_sample, torch.stack([gradient(conv2d_reference)(call.weight, sample) for sample in call.input])
    )


@pytest.mark.parametrize("name", ["input", "weight", "channel_attention", "spatial_attention"])
def test_jacobian_of_the_gradient(name):
    call = build(Case("second", (2, 4, 4, 3), 2, (2, 2), groups=2))

    def second(op):
        return jacrev(grad(lambda tensor: loss(op, call, **{name: tensor})))(getattr(call, name))

    torch.testing.assert_close(second(conv), second(conv2d_reference))


def test_gradient_of_the_gradient_for_each_entry():
    call = build(CASE)
    c = torch.randn(ENTRIES, *call.channel_attention.shape, dtype=torch.float64)

    def second(op):
        return grad(lambda c: grad(lambda c: loss(op, call, channel_attention=c))(c).square().sum())

    torch.testing.assert_close(vmap(second(conv))(c), torch.stack([second(conv2d_reference)(entry) for entry in c]))


def test_the_friendly_form_goes_through_vmap():
    call = build(CASE)
    c = torch.randn(ENTRIES, *call.channel_attention.shape, dtype=torch.float64)
    output = vmap(lambda c: conv2d(**call._replace(channel_attention=c)._asdict()))(c)
    torch.testing.assert_close(output, torch.stack([conv(*call._replace(channel_attention=entry)) for entry in c]))
    with pytest.raises(ValueError, match=r"^conv2d: channel_attention must have shape \[2, 6\]"):
        vmap(lambda c: conv2d(**call._replace(channel_attention=c)._asdict()))(c[..., 1:])


def test_the_backends_of_a_call_inside_vmap():
    """vmap hides the layout of a tensor, and so it plays no part."""
    call, found = build(CASE)._asdict(), []
    del call["input"]

    def loss(input):
        found.append(compatible_backends(input, **call))
        return input.sum()

    inputs = torch.randn(*CASE.input[:1], ENTRIES, *CASE.input[1:], dtype=torch.float64)
    for transformed in (loss, grad(loss)):
        vmap(transformed, in_dims=1)(inputs)
    assert found == [compatible_backends(inputs[:, 0], **call)] * 2


@pytest.mark.parametrize("batched", ["10000", "00100", "11111", "10010", "00001"])
@pytest.mark.parametrize("samples", [2, 0])
def test_squeeze_excite_for_every_choice_of_batched_tensors(samples, batched):
    args = gates.arguments((samples, 5, 4, 3), torch.float64)
    dims = tuple(1 if bit == "1" else None for bit in batched)
    tensors = [t if dim is None else torch.stack([t, -t, t / 2], dim=1) for t, dim in zip(args, dims, strict=True)]
    gate = vmap(torch.ops.kerneldna.squeeze_excite, dims)(*tensors)
    torch.testing.assert_close(gate, torch.stack([gates.plain(*entry) for entry in entries(tensors, dims)]))


def test_squeeze_excite_in_vmap_of_vmap_without_biases():
    input, fc1_weight, _, fc2_weight, _ = gates.arguments((2, 5, 4, 3), torch.float64)
    inputs, weights = (torch.stack([t, -t]) for t in (input, fc1_weight))

    def of(op):
        return lambda x, w: op(x, w, None, fc2_weight, None)

    gate = vmap(vmap(of(torch.ops.kerneldna.squeeze_excite), (0, None)), (None, 0))(inputs, weights)
    expected = [torch.stack([of(gates.plain)(x, w) for x in inputs]) for w in weights]
    torch.testing.assert_close(gate, torch.stack(expected))
