"""The op inside PyTorch: opcheck, fake tensors, torch.compile, torch.export, AOTInductor."""

import pytest
import torch

from kerneldna_ops import use_backend
from kerneldna_ops.call import TENSORS, Call
from kerneldna_ops.functional import conv2d
from kerneldna_ops.op import registrations, squeeze_excite
from kerneldna_ops.reference import conv2d_reference
from support import truths
from support.cases import SAMPLE, STATIC, build, grad_output, named

pytestmark = pytest.mark.usefixtures("threads")

conv = torch.ops.kerneldna.conv
conv_backward = torch.ops.kerneldna.conv_backward

SMALL = named("kernel_3x2_stride_2x1_padding_1x0_dilation_2x1")
CASES = {
    "per_sample": SMALL,
    "static": SMALL.but(channel=STATIC, filter=STATIC, spatial=STATIC),
    "published": SMALL.but(channel=SAMPLE, filter=STATIC, spatial=STATIC, bias=False),
    "plain": SMALL.but(channel="absent", filter="absent", spatial="absent", bias=False),
    "channels_last": SMALL.but(input_layout="channels_last", weight_layout="channels_last"),
    "depthwise": named("depthwise"),
    "no_samples": named("no_samples"),
    "mixed": named("mixed_stride_2x1_groups_2"),
    "given": named("given_3x3"),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def leaves(call, which=range(7)):
    tensors = enumerate(call.tensors)
    return Call.of([t if t is None else t.detach().requires_grad_(i in which) for i, t in tensors], call.geometry)


@every_case
def test_opcheck_of_conv(case):
    torch.library.opcheck(conv.default, leaves(build(case)))


@pytest.mark.parametrize("which", [(), (0,), (1, 3)], ids=["no_grad", "input", "weight_and_c"])
def test_opcheck_of_conv_with_other_leaves(which):
    torch.library.opcheck(conv.default, leaves(build(SMALL), which))


def check_backward(case, mask):
    call, grad = leaves(build(case)), grad_output(case).requires_grad_()
    wanted = [bit == "1" and tensor is not None for bit, tensor in zip(mask, call.tensors, strict=True)]
    torch.library.opcheck(conv_backward.default, (grad, *call, wanted))


@pytest.mark.parametrize("case", [CASES[name] for name in ("per_sample", "static", "channels_last", "mixed", "given")])
def test_opcheck_of_conv_backward(case):
    check_backward(case, "1111111")


@pytest.mark.parametrize("mask", ["1000000", "0101000", "0010111", "0000000"])
@pytest.mark.parametrize("name", ["per_sample", "mixed"])
def test_opcheck_of_conv_backward_of_some(name, mask):
    check_backward(CASES[name], mask)


def test_opcheck_of_conv_backward_without_gradients():
    torch.library.opcheck(conv_backward.default, (grad_output(SMALL), *build(SMALL), [True] * 6))


@every_case
def test_fake_tensors_have_the_layout_of_real_ones(case):
    call, grad, mask = build(case), grad_output(case), [tensor is not None for tensor in build(case).tensors]
    fake = torch._subclasses.FakeTensorMode()
    with fake:
        fake_call = truths.map_tensors(fake.from_tensor, call)
        faked = [conv(*fake_call), *conv_backward(fake.from_tensor(grad), *fake_call, mask)]
    for real, fake_tensor in zip([conv(*call), *conv_backward(grad, *call, mask)], faked, strict=True):
        assert (fake_tensor.shape, fake_tensor.dtype) == (real.shape, real.dtype)
        assert fake_tensor.stride() == real.stride()


def test_a_gradient_that_is_masked_out_is_an_empty_tensor():
    for call in (build(SMALL), truths.map_tensors(lambda tensor: tensor.to("meta"), build(SMALL))):
        grad = grad_output(SMALL).to(call.input.device)
        grads = conv_backward(grad, *call, [True, False, True, False, False, True, False])
        shapes = [call.input.shape, (0,), call.bias.shape, (0,), (0,), call.spatial_attention.shape, (0,)]
        assert [grad.shape for grad in grads] == shapes


@pytest.fixture
def no_recompilation():
    torch._dynamo.reset()
    once = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=1)
    # Else two dimensions that happen to be equal in the first call must be equal in all.
    any_sizes = torch.fx.experimental._config.patch(use_duck_shape=False)
    with once, any_sizes:
        yield


SIZES = [(3, 11, 8), (5, 7, 9), (2, 12, 5)]  # batch, height, width


def check_compiled(backend, case):
    def model(input, *tensors):
        return conv2d(input.sin(), tensors[0], **dict(zip(NAMES, tensors[1:], strict=True)), **GEOMETRY).cos()

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for batch, height, width in SIZES:
        call = leaves(build(case.but(input=(batch, 6, height, width))))
        given = [tensor for tensor in call.tensors if tensor is not None]
        output, reference = compiled(*call.tensors), conv2d_reference(call.input.sin(), *call[1:]).cos()
        torch.testing.assert_close(output, reference)
        grad = torch.randn_like(reference)
        grads, expected = (torch.autograd.grad(result, given, grad) for result in (output, reference))
        torch.testing.assert_close(grads, expected)


NAMES = TENSORS[2:]
GEOMETRY = {"stride": (2, 1), "padding": (1, 0), "dilation": (2, 1), "groups": 2}
FORMS = {
    "per_sample": {},
    "published": {"filter": STATIC, "spatial": STATIC, "bias": False},
    "channels_last": {"input_layout": "channels_last"},
    "mixed": {"kernels": 3},
    "given": {"kernels": SAMPLE},
}


@pytest.mark.parametrize("form", FORMS)
def test_compiles_into_one_graph_for_all_sizes(no_recompilation, form):
    check_compiled("aot_eager", SMALL.but(**FORMS[form]))


def test_compiles_with_inductor(no_recompilation):
    check_compiled("inductor", SMALL)


def test_same_padding_compiles(no_recompilation):
    compiled = torch.compile(
        lambda input, weight: conv2d(input, weight, padding="same"), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for batch, height, width in SIZES:
        input, weight = torch.randn(batch, 6, height, width), torch.randn(4, 6, 3, 2)
        torch.testing.assert_close(compiled(input, weight), conv2d(input, weight, padding="same"))


def test_a_mistake_is_told_by_the_compiler():
    torch._dynamo.reset()
    compiled = torch.compile(conv2d, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"kerneldna::conv: bias must have shape \[4\] or .*, got \[3\]"):
        compiled(torch.ones(2, 3, 5, 7), torch.ones(4, 3, 1, 1), torch.ones(3))


def test_an_explicit_backend_does_not_compile_and_says_so(ran):
    torch._dynamo.reset()
    args = torch.ones(2, 3, 5, 7), torch.ones(4, 3, 1, 1)
    compiled = torch.compile(lambda *args: conv2d(*args, backend="reference"), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="conv2d: backend= does not compile, put use_backend around"):
        compiled(*args)
    graph_break = torch.compile(lambda *args: conv2d(*args, backend="reference"), backend="aot_eager")
    for _ in range(3):
        torch.testing.assert_close(graph_break(*args), conv2d(*args))
    assert ran == ["reference"] * 3


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3, 3, 2))
        self.bias = torch.nn.Parameter(torch.randn(4))

    def forward(self, input, c, s):
        attentions = {"channel_attention": c, "spatial_attention": s}
        return conv2d(input, self.weight, self.bias, **attentions, **GEOMETRY).relu()


def arguments(batch):
    return torch.randn(batch, 6, 9, 7), torch.randn(batch, 6), torch.randn(batch, 3, 2)


def exported(model, strict):
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {name: {0: batch} for name in ("input", "c", "s")}
    return torch.export.export(model, arguments(3), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_exports_for_any_batch(strict):
    model, args = Model(), arguments(5)
    program = exported(model, strict)
    assert any(node.target is conv.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*args), model(*args))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_runs_in_an_ahead_of_time_compiled_package(tmp_path):
    model, args = Model(), arguments(5)
    with torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(exported(model, False), package_path=str(tmp_path / "m.pt2"))
        torch.testing.assert_close(torch._inductor.aoti_load_package(path)(*args), model(*args))


# What runs on a device for which the C++ library has no kernel, called on the CPU here.


def test_conv_without_a_native_kernel():
    call, grad, mask = build(SMALL), grad_output(SMALL), [True] * 6
    torch.testing.assert_close(registrations.conv_on_any_device(*call), conv(*call))
    grads = registrations.conv_backward_on_any_device(grad, *call, mask)
    torch.testing.assert_close(grads, conv_backward(grad, *call, mask))
    with pytest.raises(RuntimeError, match=r"^kerneldna::conv: groups must divide"):
        registrations.conv_on_any_device(*call._replace(groups=5))
    with pytest.raises(RuntimeError, match=r"^kerneldna::conv_backward: grad_output must have shape"):
        registrations.conv_backward_on_any_device(grad[1:], *call, mask)


def squeeze_excite_arguments():
    shapes = (3, 8, 5, 4), (2, 8), (2,), (8, 2), (8,)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def test_squeeze_excite_without_a_native_kernel():
    args = squeeze_excite_arguments()
    with use_backend("composite"):
        gate = squeeze_excite.on_any_device(*args)
    torch.testing.assert_close(gate, torch.ops.kerneldna.squeeze_excite(*args))
    with pytest.raises(RuntimeError, match=r"^kerneldna::squeeze_excite: fc2_weight must have shape \[8, 2\]"):
        squeeze_excite.on_any_device(*args[:3], args[1], args[4])


def test_squeeze_excite_refuses_to_be_differentiated():
    args = [arg.requires_grad_() for arg in squeeze_excite_arguments()]
    gate = torch.ops.kerneldna.squeeze_excite(*args)
    with pytest.raises(RuntimeError, match=r"^kerneldna::squeeze_excite has no backward: it is for inference"):
        gate.sum().backward()
