"""functional.conv_transpose2d against PyTorch's with a weight for each sample, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from kerneldna_ops import use_backend
from kerneldna_ops.functional import conv2d, conv_transpose2d
from support.exporters import EXPORTERS, assert_serves_every_size

pytestmark = pytest.mark.usefixtures("threads")

# name -> shape of input, filters, kernel, numbers
CASES = {
    "plain": ((3, 4, 5, 4), 6, (3, 3), {}),
    "stride_2": ((3, 4, 5, 4), 6, (4, 4), {"stride": 2, "padding": 1}),
    "output_padding": ((2, 4, 3, 5), 2, (3, 2), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}),
    "from_stride_on": ((2, 4, 3, 5), 2, (3, 3), {"stride": (1, 2), "dilation": (3, 4), "output_padding": (2, 3)}),
    "groups": ((2, 6, 4, 5), 4, (3, 3), {"stride": 2, "groups": 2, "padding": 1}),
    "depthwise": ((2, 4, 5, 6), 4, (3, 3), {"stride": 2, "groups": 4, "padding": 1, "output_padding": 1}),
    "one_pixel": ((2, 3, 1, 1), 5, (4, 4), {}),
    "one_tap": ((2, 3, 4, 5), 5, (1, 1), {"stride": 2}),
    "no_sample": ((0, 4, 5, 4), 6, (3, 3), {"stride": 2}),
}
EVERYWHERE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def tensors(case, kind="per sample", dtype=torch.float64):
    (n, channels, *size), filters, kernel, numbers = case
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    weight = channels, filters // numbers.get("groups", 1), *kernel
    of = () if kind == "static" else (n,)
    attentions = [None if kind == "absent" else random(*of, *shape) for shape in ((channels,), (filters,), kernel)]
    if kind == "mixed":
        return [random(n, channels, *size), random(3, *weight), random(3, filters), *attentions, random(n, 3)]
    return [random(n, channels, *size), random(*weight), random(filters), *attentions, None]


def ours(input, weight, bias, c, f, s, a=None, **numbers):
    attentions = {"channel_attention": c, "filter_attention": f, "spatial_attention": s, "kernel_attention": a}
    return conv_transpose2d(input, weight, bias, **attentions, **numbers)


def truth(input, weight, bias, c, f, s, a=None, **numbers):
    """A weight for each sample: the formula, by PyTorch's own transposed convolution."""
    if len(input) == 0:
        nothing = sum(tensor.sum() for tensor in (weight, bias, c, f, s, a) if tensor is not None)
        return F.conv_transpose2d(input, weight if a is None else weight[0], **numbers) + 0 * nothing
    of_sample = lambda attention, n, dims: attention if attention is None or attention.dim() == dims else attention[n]  # noqa: E731
    outputs = []
    for n in range(len(input)):
        c_n, f_n, s_n = of_sample(c, n, 1), of_sample(f, n, 1), of_sample(s, n, 2)
        w, b = (weight, bias) if a is None else (torch.einsum("k,kiouv->iouv", a[n], weight), a[n] @ bias)
        w = w if s_n is None else w * s_n
        w = w if c_n is None else w * c_n[:, None, None, None]
        y = F.conv_transpose2d(input[n : n + 1], w, None, **numbers)
        outputs.append((y if f_n is None else y * f_n[:, None, None]) + b[:, None, None])
    return torch.cat(outputs)


def gradients(function, given, numbers, grad=None):
    output = function(*given, **numbers)
    grad = torch.ones_like(output) if grad is None else grad
    there = [tensor for tensor in given if tensor is not None]
    return output, torch.autograd.grad(output, there, grad.to(output))


@EVERYWHERE
@pytest.mark.parametrize("kind", ["per sample", "static", "absent", "mixed"])
def test_output_and_gradients(case, kind):
    given, numbers = tensors(case, kind), case[3]
    expected = truth(*given, **numbers)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=expected.dtype)
    for found, right in zip(gradients(ours, given, numbers, grad), gradients(truth, given, numbers, grad), strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("kind", ["per sample", "mixed"])
@pytest.mark.parametrize("name", ["composite", "reference", "cpu"])
def test_backends(name, kind):
    given, numbers = tensors(CASES["output_padding"], kind, torch.float32), CASES["output_padding"][3]
    expected = truth(*given, **numbers)
    torch.testing.assert_close(ours(*given, **numbers, backend=name), expected, rtol=1e-4, atol=1e-4)
    with use_backend(name):
        torch.testing.assert_close(ours(*given, **numbers), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "kind"),
    [("output_padding", "per sample"), ("groups", "mixed"), ("groups", "per sample"), ("from_stride_on", "per sample")],
)
def test_gradients_of_gradients(case, kind):
    given, numbers = tensors(CASES[case], kind), CASES[case][3]
    given = [tensor for tensor in given if tensor is not None]
    assert torch.autograd.gradgradcheck(lambda *t: ours(*t, **numbers), given)


def test_it_is_the_transpose_of_conv2d():
    """<conv2d(x), y> = <x, conv_transpose2d(y)> with c and f exchanged."""
    generator = torch.Generator().manual_seed(3)
    x, y, w = (torch.randn(s, generator=generator) for s in ((2, 4, 7, 9), (2, 6, 4, 5), (6, 4, 3, 3)))
    c, f, s = torch.rand(2, 4), torch.rand(2, 6), torch.rand(2, 3, 3)
    numbers = {"stride": 2, "padding": 1}
    forward = conv2d(x, w, channel_attention=c, filter_attention=f, spatial_attention=s, **numbers)
    back = conv_transpose2d(y, w, channel_attention=f, filter_attention=c, spatial_attention=s, **numbers)
    torch.testing.assert_close((forward * y).sum(), (x * back).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layout_follows_the_input(memory_format):
    given, numbers = tensors(CASES["stride_2"]), CASES["stride_2"][3]
    given[0] = given[0].detach().contiguous(memory_format=memory_format)
    output = ours(*given, **numbers)
    assert output.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(output, truth(*given, **numbers))


def test_one_image_and_attentions_of_one_pixel():
    (input, weight, bias, c, f, s, _), numbers = tensors(CASES["stride_2"]), CASES["stride_2"][3]
    expected = truth(input[:1], weight, bias, c[:1], f[:1], s[:1], **numbers)[0]
    found = ours(input[0], weight, bias, c[:1, :, None, None], f[:1, :, None, None], s[:1], **numbers)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["per sample", "mixed"])
def test_autocast(kind):
    given, numbers = tensors(CASES["stride_2"], kind, torch.float32), CASES["stride_2"][3]
    with torch.autocast("cpu", torch.bfloat16):
        output = ours(*given, **numbers)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), truth(*given, **numbers), rtol=0.1, atol=0.3)


@pytest.mark.parametrize("kind", ["per sample", "mixed"])
def test_compiles_and_vmaps(kind):
    given = [t.detach() for t in tensors(CASES["stride_2"], kind) if t is not None]
    numbers = CASES["stride_2"][3]
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given, **numbers), ours(*given, **numbers))
    many = [torch.stack([t, 2 * t]) for t in given]
    each = torch.stack([ours(*(t[b] for t in many), **numbers) for b in range(2)])
    torch.testing.assert_close(torch.func.vmap(lambda *t: ours(*t, **numbers))(*many), each)


def test_torch_fx():
    """It sees one call, whatever the sizes are."""

    class Network(torch.nn.Module):
        def forward(self, x, w, c):
            return conv_transpose2d(x.relu(), w, channel_attention=c, stride=2)

    traced = torch.fx.symbolic_trace(Network())
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [conv_transpose2d]
    for size in (3, 5):
        given = torch.randn(2, 4, size, size), torch.randn(4, 3, 3, 3), torch.rand(2, 4)
        torch.testing.assert_close(traced(*given), Network()(*given))


def test_counted_flops():
    given, numbers = tensors(CASES["stride_2"]), CASES["stride_2"][3]
    with FlopCounterMode(display=False) as ours_counted:
        ours(*given, **numbers)
    with FlopCounterMode(display=False) as plain:
        F.conv_transpose2d(*given[:3], **numbers)
    assert ours_counted.get_total_flops() == plain.get_total_flops() > 0


class Upsampling(torch.nn.Module):
    """What depends on the input, so that nothing but the weight is a constant of the graph."""

    def __init__(self, spatial, groups, kernels):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        shape = 4, 6 // groups, 3, 3
        self.weight = torch.nn.Parameter(torch.randn((kernels, *shape) if kernels else shape, generator=generator))
        self.bias = torch.nn.Parameter(torch.randn(kernels, 6, generator=generator)) if kernels else None
        self.spatial, self.groups, self.kernels = spatial, groups, kernels

    def forward(self, x):
        c = x.mean((2, 3)).sigmoid()
        f = torch.cat([c, c[:, :2]], 1)
        s = (c[:, :1] * torch.arange(9.0)).sigmoid().view(-1, 3, 3) if self.spatial else None
        numbers = {"stride": 2, "padding": 1, "output_padding": 1, "groups": self.groups}
        a = c[:, : self.kernels] if self.kernels else None
        return ours(x, self.weight, self.bias, c, f, s, a, **numbers)


@pytest.mark.parametrize("export", EXPORTERS)
@pytest.mark.parametrize("spatial", [False, True], ids=["c_f", "c_f_s"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernels", [0, 3], ids=["one_kernel", "mixed"])
def test_export(export, spatial, groups, kernels):
    """One file serves every batch and image size, in PyTorch's or ONNX's own operators."""
    assert_serves_every_size(export, Upsampling(spatial, groups, kernels).eval())


INPUT, WEIGHT = torch.ones(2, 4, 5, 5), torch.ones(4, 3, 3, 3)
MIXTURE = {"weight": torch.ones(6, 4, 3, 3, 3), "kernel_attention": torch.ones(2, 6)}


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"output_padding": 1}, ValueError, "output_padding must be smaller than stride or dilation, got [1, 1] with"),
        ({"output_padding": -1}, ValueError, "output_padding must be at least 0, got [-1, -1]"),
        ({"output_padding": 1.5}, TypeError, "output_padding must be an int or a pair of ints, got 1.5"),
        ({"weight": torch.ones(3, 4, 3, 3)}, ValueError, "weight must have C_in = 4 filters, got 3 in [3, 4, 3, 3]"),
        ({"weight": WEIGHT.double()}, TypeError, "weight must have the dtype of input (float32), got float64"),
        ({"bias": torch.ones(4)}, ValueError, "bias must have shape [3], got [4]"),
        ({"channel_attention": torch.ones(3)}, ValueError, "channel_attention must have shape [2, 4] (per sample)"),
        ({"filter_attention": torch.ones(4)}, ValueError, "filter_attention must have shape [2, 3] (per sample)"),
        ({"spatial_attention": torch.ones(9)}, ValueError, "spatial_attention must have shape [2, 3, 3] (per sample)"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got [0, 0]"),
        ({"groups": 3}, ValueError, "groups must divide C_in = 4, got 3"),
        ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ({"padding": 9}, ValueError, "the output would be empty: an input of [5, 5] with a kernel of [3, 3]"),
        ({"input": INPUT[0, 0]}, ValueError, "input must be 4-D [N, C_in, H, W], got 2-D [5, 5]"),
        ({"weight": MIXTURE["weight"]}, ValueError, "weight must be 4-D [C_in, C_out/groups, kh, kw], got 5-D"),
        (
            MIXTURE | {"weight": WEIGHT},
            ValueError,
            "weight must be 5-D [K, C_in, C_out/groups, kh, kw] with kernel_attention, got 4-D",
        ),
        (
            MIXTURE | {"kernel_attention": torch.ones(2, 4)},
            ValueError,
            "kernel_attention must have shape [2, 6] (samples, kernels), got [2, 4]",
        ),
        (
            MIXTURE | {"kernel_attention": torch.ones(2, 6).half()},
            TypeError,
            "kernel_attention must have the dtype of input (float32), got float16",
        ),
        (
            MIXTURE | {"bias": torch.ones(6, 4)},
            ValueError,
            "bias must have shape [3] or, one for each kernel, [6, 3], got [6, 4]",
        ),
        (
            MIXTURE | {"bias": torch.ones(2, 3)},
            ValueError,
            "bias must have shape [C_out] or, one for each kernel, [6, C_out], got [2, 3]",
        ),
        (
            MIXTURE | {"bias": torch.ones(6, 3), "dilation": 2**62},
            ValueError,
            f"the output must have less than 2**63 elements, got [2, 3, {2**63 + 5}, {2**63 + 5}]",
        ),
    ],
)
def test_bad_arguments(arguments, error, sentence):
    with pytest.raises(error) as caught:
        conv_transpose2d(**({"input": INPUT, "weight": WEIGHT} | arguments))
    assert str(caught.value).startswith(f"conv_transpose2d: {sentence}")
