"""functional.conv1d against F.conv1d with a weight for each sample, in float64."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.functional import conv1d
from support.exporters import EXPORTERS, assert_serves_every_size

pytestmark = pytest.mark.usefixtures("threads")

# name -> (shape of input, filters, kernel, numbers)
CASES = {
    "plain": ((3, 4, 9), 6, 3, {}),
    "stride": ((3, 4, 10), 6, 4, {"stride": 2, "padding": 3}),
    "dilation": ((2, 4, 9), 3, 3, {"dilation": (2,), "padding": [1], "stride": (1,)}),
    "groups": ((2, 6, 9), 4, 2, {"groups": 2, "padding": 1}),
    "depthwise": ((2, 4, 9), 4, 5, {"groups": 4, "padding": "same"}),
    "same_even": ((2, 3, 9), 5, 4, {"padding": "same", "dilation": 3}),
    "valid": ((2, 3, 9), 5, 4, {"padding": "valid"}),
    "one_tap": ((2, 3, 5), 5, 1, {"stride": 2}),
    "no_sample": ((0, 4, 9), 6, 3, {"padding": 1}),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
KINDS = ["per sample", "static", "absent", "mixed", "kernels per sample"]
NAMES = ("channel_attention", "filter_attention", "spatial_attention", "kernel_attention")


def tensors(case, kind="per sample", kernels=2):
    (n, channels, length), filters, taps, numbers = case
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    weight = filters, channels // numbers.get("groups", 1), taps
    of = {"static": (), "absent": None}.get(kind, (n,))
    attentions = [None] * 3 if of is None else [random(*of, size) for size in (channels, filters, taps)]
    if kind == "mixed":
        return [
            random(n, channels, length),
            random(kernels, *weight),
            random(kernels, filters),
            *attentions,
            random(n, 2),
        ]
    in_front = (n,) if kind == "kernels per sample" else ()
    return [random(n, channels, length), random(*in_front, *weight), random(filters), *attentions, None]


def ours(input, weight, bias, *attentions, **numbers):
    return conv1d(input, weight, bias, **dict(zip(NAMES, attentions, strict=True)), **numbers)


def truth(input, weight, bias, c, f, s, a, **numbers):
    """The formula, by PyTorch's own convolution of each sample."""
    if len(input) == 0:
        nothing = sum(tensor.sum() for tensor in (weight, bias, c, f, s, a) if tensor is not None)
        return F.conv1d(input, weight[0] if weight.dim() == 4 else weight, **numbers) + 0 * nothing
    outputs = []
    for n in range(len(input)):
        w, b = (weight, bias) if a is None else (torch.einsum("k,koit->oit", a[n], weight), a[n] @ bias)
        w = w[n] if w.dim() == 4 else w
        of_sample = [tensor if tensor is None or tensor.dim() == 1 else tensor[n] for tensor in (c, f, s)]
        x = input[n : n + 1] if of_sample[0] is None else input[n : n + 1] * of_sample[0][:, None]
        y = F.conv1d(x, w if of_sample[2] is None else w * of_sample[2], **numbers)
        outputs.append((y if of_sample[1] is None else y * of_sample[1][:, None]) + b[:, None])
    return torch.cat(outputs)


def gradients(function, given, **numbers):
    output = function(*given, **numbers)
    there = [tensor for tensor in given if tensor is not None]
    return [output, *torch.autograd.grad(output.sin().sum(), there)]


@every_case
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_output_and_gradients(case, kind):
    if case is CASES["no_sample"] and kind == "kernels per sample":
        pytest.skip("there is no kernel then")
    given, numbers = tensors(case, kind), case[3]
    expected = gradients(truth, given, **numbers)
    torch.testing.assert_close(gradients(ours, given, **numbers), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [1, 2, 3])
def test_causal_padding(taps, stride, dilation):
    given = tensors(((3, 4, 8), 6, taps, {}))
    found = ours(*given, padding="causal", stride=stride, dilation=dilation)
    padded = [F.pad(given[0], ((taps - 1) * dilation, 0)), *given[1:]]
    torch.testing.assert_close(found, truth(*padded, stride=stride, dilation=dilation), rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(found[:, :, 1].sum(), given[0])
    assert (gradient[:, :, stride + 1 :] == 0).all()


def test_gradients_of_gradients():
    given, numbers = tensors(((2, 2, 5), 2, 3, {}), "mixed"), {"padding": "causal", "stride": 2}
    assert torch.autograd.gradcheck(lambda *t: ours(*t, **numbers), given)
    assert torch.autograd.gradgradcheck(lambda *t: ours(*t, **numbers), given)


@pytest.mark.parametrize("padding", [1, "same", "causal"])
def test_one_sequence_without_a_batch(padding):
    input, weight, bias, c, f, s, a = tensors(CASES["plain"], "mixed")
    expected = ours(input, weight, bias, c, f, s, a, padding=padding)[0]
    found = ours(input[0], weight, bias, c[:1], f[:1], s[:1], a[:1], padding=padding)
    torch.testing.assert_close(found, expected)


def test_layout_follows_the_input():
    """Features last, as transformers have sequences."""
    given = tensors(CASES["plain"])
    given[0] = given[0].detach().transpose(1, 2).contiguous().transpose(1, 2)
    output = ours(*given)
    assert output.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(output, truth(*given))


@pytest.mark.parametrize("backend", ["composite", "reference", "cpu"])
def test_backends(backend):
    given = [t.detach().float() for t in tensors(CASES["stride"], "mixed")]
    found = ours(*given, **CASES["stride"][3], backend=backend)
    torch.testing.assert_close(found, truth(*given, **CASES["stride"][3]), rtol=1e-4, atol=1e-4)


def test_autocast():
    given = [t.detach().float() for t in tensors(CASES["plain"], "mixed")]
    with torch.autocast("cpu", torch.bfloat16):
        output = ours(*given, padding="causal")
    low = [t.bfloat16() for t in given]
    torch.testing.assert_close(output, ours(*low, padding="causal"))


@pytest.mark.parametrize("padding", [1, "same", "causal"])
def test_compiles_and_vmaps(padding):
    given = [t.detach() for t in tensors(CASES["plain"])[:-1]]
    run = lambda *t: ours(*t, None, padding=padding, dilation=2)  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), run(*given))
    many = [torch.stack([t, 2 * t]) for t in given]
    each = torch.stack([run(*(t[b] for t in many)) for b in range(2)])
    torch.testing.assert_close(torch.func.vmap(run)(*many), each)


class Network(torch.nn.Module):
    """The pixels of an image as a sequence, through a causal layer of a mixture and a depthwise one."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        shapes = (2, 6, 4, 3), (6, 1, 4), (6,)
        self.weights = torch.nn.ParameterList(torch.randn(shape, generator=generator) for shape in shapes)

    def forward(self, x):
        x = x.flatten(2)
        c = x.mean(2).sigmoid()
        f = torch.cat([c, c[:, :2]], 1)
        mixed, depthwise, bias = self.weights
        x = conv1d(
            x, mixed, bias, channel_attention=c, spatial_attention=c[:, :3], kernel_attention=c[:, :2], padding="causal"
        )
        return conv1d(x.relu(), depthwise, filter_attention=f, padding="same", groups=6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("export", EXPORTERS)
def test_export(export):
    """One file serves every batch and length, in PyTorch's or ONNX's own operators."""
    assert_serves_every_size(export, Network().eval())


def test_torch_fx():
    """It sees one call, whatever the sizes are."""
    traced = torch.fx.symbolic_trace(Network())
    assert [node.target for node in traced.graph.nodes if node.target == conv1d] == [conv1d] * 2
    for size in (3, 5):
        x = torch.randn(2, 4, size, size)
        torch.testing.assert_close(traced(x), Network()(x))


def test_is_a_drop_in_for_conv1d():
    x, weight, bias = torch.randn(2, 4, 9), torch.randn(6, 2, 3), torch.randn(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(conv1d(x, weight, bias, groups=2), F.conv1d(x, weight, bias, groups=2))


INPUT, WEIGHT, KERNELS = torch.ones(2, 4, 9), torch.ones(6, 4, 3), torch.ones(5, 6, 4, 3)
BAD = {
    "input_1d": ({"input": INPUT[0, 0]}, ValueError, "input must be 3-D [N, C_in, L], got 1-D [9]"),
    "input_4d": ({"input": INPUT[None]}, ValueError, "input must be 3-D [N, C_in, L], got 4-D [1, 2, 4, 9]"),
    "input_list": ({"input": [1.0]}, TypeError, "input must be a tensor, got list"),
    "input_int": ({"input": INPUT.int()}, TypeError, "input must be float64, float32, float16 or bfloat16, got int32"),
    "input_empty": (
        {"input": INPUT[:, :, :0]},
        ValueError,
        "only the batch of input may be empty, got input [2, 4, 0] and weight [6, 4, 3]",
    ),
    "weight_2d": (
        {"weight": WEIGHT[0]},
        ValueError,
        "weight must be 3-D [C_out, C_in/groups, k] or 4-D with a kernel for each sample in front, got 2-D [4, 3]",
    ),
    "weight_channels": (
        {"weight": WEIGHT[:, :3]},
        ValueError,
        "weight must have C_in/groups = 4 input channels, got 3 in [6, 3, 3]",
    ),
    "weight_dtype": (
        {"weight": WEIGHT.double()},
        TypeError,
        "weight must have the dtype of input (float32), got float64",
    ),
    "weight_of_samples": (
        {"weight": KERNELS},
        ValueError,
        "weight must have a kernel for each of the N = 2 samples, got 5 in [5, 6, 4, 3]",
    ),
    "weight_of_a_mixture": (
        {"kernel_attention": torch.ones(2, 5)},
        ValueError,
        "weight must be 4-D [K, C_out, C_in/groups, k] with kernel_attention, got 3-D [6, 4, 3]",
    ),
    "bias": ({"bias": torch.ones(4)}, ValueError, "bias must have shape [6] or [2, 6] (per sample), got [4]"),
    "bias_of_a_mixture": (
        {"weight": KERNELS, "kernel_attention": torch.ones(2, 5), "bias": torch.ones(4, 6)},
        ValueError,
        "bias must have shape [C_out] or, one for each kernel, [5, C_out], got [4, 6]",
    ),
    "channel_attention": (
        {"channel_attention": torch.ones(3)},
        ValueError,
        "channel_attention must have shape [2, 4] (per sample) or [4] (static), got [3]",
    ),
    "spatial_attention": (
        {"spatial_attention": torch.ones(2, 1, 3)},
        ValueError,
        "spatial_attention must have shape [2, 3] (per sample) or [3] (static), got [2, 1, 3]",
    ),
    "spatial_attention_none": (
        {"spatial_attention": torch.tensor(1.0)},
        ValueError,
        "spatial_attention must have shape [2, 3] (per sample) or [3] (static), got []",
    ),
    "kernel_attention": (
        {"weight": KERNELS, "kernel_attention": torch.ones(2, 4), "bias": torch.ones(5, 6)},
        ValueError,
        "kernel_attention must have shape [2, 5] (samples, kernels), got [2, 4]",
    ),
    "stride_0": ({"stride": 0}, ValueError, "stride must be at least 1, got [0]"),
    "stride_pair": ({"stride": (1, 2)}, TypeError, "stride must be an int, got (1, 2)"),
    "dilation": ({"dilation": 1.5}, TypeError, "dilation must be an int, got 1.5"),
    "padding_negative": ({"padding": -1}, ValueError, "padding must be at least 0, got [-1]"),
    "padding_name": (
        {"padding": "full"},
        ValueError,
        "padding must be an int, 'same', 'valid' or 'causal', got 'full'",
    ),
    "padding_same": ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs stride 1, got (2,)"),
    "padding_of_no_weight": ({"padding": "causal", "weight": None}, TypeError, "weight must be a tensor, got NoneType"),
    "padding_causal": (
        {"padding": "causal", "dilation": 2**62},
        ValueError,
        f"padding='causal' must come to at most 16777216 zeros, got [{2**63}] of a kernel of [3] with dilation"
        f" [{2**62}]",
    ),
    "groups": ({"groups": 3}, ValueError, "groups must divide C_in = 4 and C_out = 6, got 3"),
    "groups_none": ({"groups": None}, TypeError, "groups must be an int, got None"),
    "kernel_too_long": (
        {"input": INPUT[:, :, :2]},
        ValueError,
        "the output would be empty: a kernel of [3] with dilation [1] does not fit into an input of [2] with padding"
        " [0]",
    ),
}


@pytest.mark.parametrize(("change", "kind", "sentence"), BAD.values(), ids=BAD)
def test_bad_input(change, kind, sentence):
    with pytest.raises(kind) as caught:
        conv1d(**({"input": INPUT, "weight": WEIGHT} | change))
    assert str(caught.value) == f"conv1d: {sentence}"


def test_an_unknown_backend_is_told_as_by_conv2d():
    with pytest.raises(ValueError, match="fastest"):
        conv1d(INPUT, WEIGHT, backend="fastest")
