"""The dynamic convolutions of others as layers: outputs and gradients are those of the published formulas, by one call
of conv2d."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kerneldna_ops.nn import ModulatedConv2d
from support.dynamic_layers import CASES, ONE_OF_EACH, adaptive_conv, modulated_conv

pytestmark = pytest.mark.usefixtures("threads")
every_case = pytest.mark.parametrize("name", CASES)
one_of_each = pytest.mark.parametrize("name", ONE_OF_EACH)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def leaves(tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_formula(name, training):
    case = CASES[name]
    layer = case.layer().train(training)
    given = case.inputs()
    inputs, expected_inputs = leaves(given), leaves(given)
    parameters = {
        key: value.detach().clone().requires_grad_(isinstance(value, nn.Parameter))
        for key, value in [*layer.named_parameters(), *layer.named_buffers()]
    }
    expected = case.truth(layer, parameters, expected_inputs)
    output = layer(*inputs)
    torch.testing.assert_close(output, expected, **CLOSE)

    weighting = torch.randn_like(expected)
    names = [key for key, value in parameters.items() if value.requires_grad]
    trained = dict(layer.named_parameters())
    # In a formula of one kernel its share may be a constant.
    found = torch.autograd.grad(output, [*inputs, *(trained[key] for key in names)], weighting, materialize_grads=True)
    wanted = torch.autograd.grad(
        expected, [*expected_inputs, *(parameters[key] for key in names)], weighting, materialize_grads=True
    )
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_of_odconv(training):
    layer = CASES["odconv 3x3 K=4"].layer().train(training)
    bn = copy.deepcopy(layer.attention.bn)
    x = torch.randn(4, 6, 5, 7, dtype=torch.float64)
    layer(x)
    bn(nn.functional.conv2d(x.mean((2, 3), True), layer.attention.fc.weight))
    torch.testing.assert_close(layer.attention.bn.state_dict(), bn.state_dict(), **CLOSE)


class Seen(TorchDispatchMode):
    """What a call dispatches: the ops by name, and the numbers of elements of their results."""

    def __init__(self):
        super().__init__()
        self.ops, self.sizes = [], set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        self.ops.append(op)
        self.sizes |= {tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)}
        return result


@one_of_each
@pytest.mark.parametrize("training", [True, False])
def test_one_call_of_the_op_and_no_kernel_for_each_sample(name, training):
    case, samples = CASES[name], 5
    layer, inputs = case.layer().train(training), case.inputs(samples)
    with Seen() as seen:
        layer(*inputs)
    assert seen.ops.count(torch.ops.kerneldna.conv.default) == 1
    channels, filters, (kh, kw) = case.options["args"]
    assert samples * filters * channels // layer.groups * kh * kw not in seen.sizes


@one_of_each
def test_copies(name):
    case = CASES[name]
    layer, inputs = case.layer().eval(), case.inputs()
    expected = layer(*inputs)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(copied(*inputs), expected, rtol=0, atol=0)
        assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(p.data_ptr() for p in layer.parameters())


@one_of_each
def test_channels_last(name):
    """As a network is converted, with its gradients, and the other ways to convert it beside it."""
    case = CASES[name]
    layer, (x, *others) = case.layer().eval(), case.inputs()
    expected = layer(x, *others)
    expected.sum().backward()
    parameters, gradients = list(layer.parameters()), [parameter.grad.clone() for parameter in layer.parameters()]
    state = copy.deepcopy(layer.state_dict())

    net = nn.Sequential(layer).to(memory_format=torch.channels_last)
    assert all(ours is theirs for ours, theirs in zip(net.parameters(), parameters, strict=True))
    for kernels in (tensor for tensor in parameters if tensor.dim() == 5):
        for values in (kernels, kernels.grad):
            assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in values)
    assert list(layer.state_dict()) == list(state)
    torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close([parameter.grad for parameter in parameters], gradients, rtol=0, atol=0)
    output = layer(x.contiguous(memory_format=torch.channels_last), *others)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected, **CLOSE)

    shapes = [parameter.shape for parameter in parameters]
    net = net.share_memory().to(torch.float16, memory_format=torch.channels_last).to("meta").to_empty(device="cpu")
    assert [(parameter.shape, parameter.dtype) for parameter in net.parameters()] == [
        (shape, torch.float16) for shape in shapes
    ]


@one_of_each
@pytest.mark.parametrize("training", [True, False])
def test_compile(name, training):
    torch.compiler.reset()
    case = CASES[name]
    layer = case.layer().train(training)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    inputs = leaves(case.inputs())
    outputs = layer(*inputs), compiled(*inputs)
    torch.testing.assert_close(*outputs, **CLOSE)
    weighting = torch.randn_like(outputs[0])
    found = [torch.autograd.grad(output, inputs, weighting) for output in outputs]
    torch.testing.assert_close(*found, **CLOSE)


@pytest.mark.parametrize("name", ["dynamic 3x3 K=4", "odconv 3x3 K=4"])
def test_annealing_a_compiled_layer(name):
    """A temperature of each epoch makes a graph for each only until it is seen to change."""
    torch.compiler.reset()
    case = CASES[name]
    layer, (x,) = case.layer().eval(), case.inputs()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for temperature in range(30, 0, -2):
        layer.attention.temperature = temperature
        torch.testing.assert_close(compiled(x), layer(x), **CLOSE)


@one_of_each
def test_export(name):
    case = CASES[name]
    layer = case.layer().eval()
    batch = torch.export.Dim("batch", min=2)
    inputs, others = case.inputs(), case.inputs(5)
    shapes = tuple({0: batch} for _ in inputs)
    program = torch.export.export(layer, tuple(inputs), dynamic_shapes=shapes)
    assert set(program.state_dict) == set(layer.state_dict())
    torch.testing.assert_close(program.module()(*others), layer(*others), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@one_of_each
def test_autocast(name, dtype):
    case = CASES[name]
    layer, inputs = case.layer().eval(), case.inputs()
    expected = layer(*inputs)
    x, *others = inputs
    layer, inputs = (
        layer.float(),
        leaves([x.to(dtype), *(tensor.float() for tensor in others)]),
    )  # as from a convolution
    with torch.autocast("cpu", dtype):
        output = layer(*inputs)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
    output.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in [*layer.parameters(), *inputs])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@one_of_each
def test_half_precision(name, dtype):
    case = CASES[name]
    layer, inputs = case.layer().eval(), case.inputs()
    expected = layer(*inputs)
    output = layer.to(dtype)(*(tensor.to(dtype) for tensor in inputs))
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item())


@one_of_each
def test_vmap_over_stacked_layers(name):
    case = CASES[name]
    layers, inputs = [case.layer().eval() for _ in range(3)], case.inputs()
    parameters, buffers = torch.func.stack_module_state(layers)

    def call(p, b):
        return torch.func.functional_call(layers[0], (p, b), tuple(inputs))

    expected = torch.stack([layer(*inputs) for layer in layers])
    torch.testing.assert_close(torch.vmap(call)(parameters, buffers), expected, **CLOSE)


@one_of_each
def test_fx_takes_a_layer_for_a_leaf(name):
    case = CASES[name]
    layer, inputs = case.layer().eval(), case.inputs()

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, mod=None, kernel_mod=None):
            others = (mod, kernel_mod)[: len(inputs) - 1]
            return self.layer(x.relu(), *others)

    network = Network()
    unused = dict.fromkeys(("mod", "kernel_mod")[len(inputs) - 1 :])
    graph = fx.symbolic_trace(network, concrete_args=unused)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["layer"]
    torch.testing.assert_close(graph(*inputs), network(*inputs), rtol=0, atol=0)


def test_scales_of_the_samples_share_their_styles():
    """lucidrains' generator puts several scales of a batch in a row."""
    case = CASES["adaptive 3x3 K=4"]
    layer = case.layer()
    _, mod, kernel_mod = case.inputs(2)
    fmap = torch.randn(6, 6, 5, 4, dtype=torch.float64)
    expected = adaptive_conv(
        case.options, dict(layer.named_parameters()), fmap, mod.repeat(3, 1), kernel_mod.repeat(3, 1)
    )
    torch.testing.assert_close(layer(fmap, mod, kernel_mod), expected, **CLOSE)


def test_a_trace_serves_any_number_of_scales():
    layer = CASES["adaptive 3x3 K=4"].layer()

    def inputs(samples, scales):
        fmap = torch.randn(samples * scales, 6, 5, 4, dtype=torch.float64)
        return fmap, *(torch.randn(samples, size, dtype=torch.float64) for size in (6, 4))

    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        trace = torch.jit.trace(layer, inputs(2, 3))
    for numbers in ((2, 3), (3, 2), (4, 1)):
        others = inputs(*numbers)
        torch.testing.assert_close(trace(*others), layer(*others), **CLOSE)


def test_demodulation_where_kernels_cancel_out():
    """Of kernels that are opposites the norm is zero, the sum of products perhaps a bit less."""
    layer = CASES["adaptive 3x3 K=4"].layer().float()
    with torch.no_grad():
        layer.weights[1].copy_(-layer.weights[0])
        layer.weights[2:].zero_()
    mod = torch.randn(3, 6)
    kernel_mod = torch.tensor([[1.0, 1.0, -50.0, -50.0]]).expand(3, -1)
    assert layer(torch.randn(3, 6, 5, 5), mod, kernel_mod).abs().max() < 0.1


@pytest.mark.parametrize("kernels", [1, 4])
def test_demodulation_of_any_size(kernels):
    """As in modulated_conv2d: squares of these weights do not fit into float32, nor of these styles into float16."""
    layer = CASES[f"adaptive 3x3 K={kernels}"].layer().float()
    x, mod, *shares = (tensor.float() for tensor in CASES[f"adaptive 3x3 K={kernels}"].inputs())

    def error(output, *inputs):
        truth = copy.deepcopy(layer).double()(*(tensor.double() for tensor in inputs))
        return (output.double() - truth).abs().max() / truth.abs().max()

    for low in (torch.bfloat16, torch.float16):
        inputs = x, 2e5 * mod, *shares
        with torch.autocast("cpu", low):
            assert error(layer(*inputs), *inputs) < 8 * torch.finfo(low).eps
        assert error(layer(x.to(low), *inputs[1:]), *inputs) < 8 * torch.finfo(low).eps  # beside weights in float32
    for size in (1e-10, 1e20):
        with torch.no_grad():
            layer.weights.mul_(size)
        assert error(layer(x, mod, *shares), x, mod, *shares) < 1e-5


@one_of_each
def test_meta_tensors_give_the_shape(name):
    case = CASES[name]
    inputs = case.inputs()
    expected = case.layer().eval()(*inputs)
    output = case.layer().to("meta").eval()(*(tensor.to("meta") for tensor in inputs))
    assert (output.shape, output.dtype, output.device.type) == (expected.shape, expected.dtype, "meta")


@pytest.mark.parametrize("demodulate", [True, False])
def test_sizes_change_as_in_stylegan(demodulate):
    """The definition: zeros between the pixels, the filter, a convolution (up=2); the filter, every second pixel of a
    correlation (down=2)."""
    x, styles = torch.randn(3, 6, 8, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    taps = torch.outer(taps, taps).expand(6, 1, 4, 4)
    for up, down in ((2, 1), (1, 2)):
        layer = ModulatedConv2d(6, 8, 3, demodulate, up=up, down=down, resample_filter=[1, 3, 3, 1]).double()
        kernel = layer.weight
        if up == 2:
            wide = x.new_zeros(3, 6, 16, 12)
            wide[:, :, ::2, ::2] = x
            wide = nn.functional.conv2d(nn.functional.pad(wide, (3, 2, 3, 2)), 4 * taps, groups=6)
            kernel, stride = kernel.flip((2, 3)), 1
        else:
            wide, stride = nn.functional.conv2d(nn.functional.pad(x, (2, 2, 2, 2)), taps, groups=6), 2
        options = {"demodulate": demodulate, "stride": stride}
        expected = modulated_conv(options, {"weight": kernel}, wide, styles)
        output = layer(x, styles)
        assert output.shape == (3, 8, 8 * up // down, 6 * up // down)
        torch.testing.assert_close(output, expected, **CLOSE)


def test_no_samples():
    for name in ONE_OF_EACH:
        case = CASES[name]
        assert case.layer().eval()(*case.inputs(0)).shape[0] == 0
