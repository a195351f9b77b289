"""Whatever is done to the parts of a gate, and under every transform, it is what its modules give one by one."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, jacfwd, jvp, stack_module_state, vmap

from kerneldna_ops.nn import ChildConv2d, DynamicConv2d, SqueezeExcite, conv_norm
from kerneldna_ops.nn._trainable_gate import TrainableGate
from support import dressed
from support.plain_layers import randomise

pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:.*Tracer"),
]

MODE = pytest.mark.parametrize("mode", ["train", "eval"])


def layer(dtype=torch.float64, **options):
    return randomise(SqueezeExcite(12, **options).to(dtype))


def images(*shape):
    return torch.randn(shape or (4, 12, 3, 5), dtype=torch.float64)


def twins(make, name=None):
    """Two of the same, dressed alike, because some of what is done to parts cannot be copied."""
    for _ in range(2):
        torch.manual_seed(3)
        made = make()
        if name is not None:
            dressed.DRESSED[name](made)
        yield made


def same_as_by_hand(ours, theirs, input, with_gradients):
    """Gate, gradients and buffers of two calls."""
    results = []
    for se, call in ((ours, ours), (theirs, lambda x: dressed.gate(theirs, x))):
        found = []
        for _ in range(2):
            with torch.set_grad_enabled(with_gradients):
                x = input.clone().requires_grad_(with_gradients)
                gate = call(x)
            found.append(gate)
            if with_gradients:
                leaves = [x, *(p for p in se.parameters() if p.requires_grad)]
                found += torch.autograd.grad(gate.square().sum(), leaves, allow_unused=True)
        results.append([*found, *se.buffers()])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@MODE
@pytest.mark.parametrize("with_gradients", [True, False], ids=["gradients", "no_grad"])
@pytest.mark.parametrize("name", dressed.DRESSED)
def test_parts_replaced_or_dressed(name, with_gradients, mode):
    ours, theirs = twins(lambda: layer().train(mode == "train"), name)
    same_as_by_hand(ours, theirs, images(), with_gradients)


@MODE
@pytest.mark.parametrize("with_gradients", [True, False], ids=["gradients", "no_grad"])
@pytest.mark.parametrize("name", dressed.GLOBAL_HOOKS)
def test_hooks_on_all_modules(name, with_gradients, mode):
    ours, theirs = twins(lambda: layer().train(mode == "train"))
    with dressed.global_hook(name):
        same_as_by_hand(ours, theirs, images(), with_gradients)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_weights():
    se = layer().eval()
    plain = copy.deepcopy(se)
    for name in ("fc1", "fc2"):
        part = getattr(se, name)
        part.weight = nn.Parameter(part.weight.detach().to_sparse_csr(), requires_grad=False)
    with torch.no_grad():
        input = images()
        torch.testing.assert_close(se(input), dressed.gate(plain, input))


@pytest.mark.parametrize("with_gradients", [True, False], ids=["gradients", "no_grad"])
def test_strided_statistics(with_gradients):
    """In training mode: in eval mode torch's own gradient is wrong then."""
    both = list(twins(layer))
    for se in both:
        for name in ("running_mean", "running_var"):
            setattr(se.bn, name, getattr(se.bn, name).repeat_interleave(2)[::2])
    same_as_by_hand(*both, images(), with_gradients)


def test_as_built_it_is_one_step():
    """Else the tests above would compare the modules with themselves."""
    assert isinstance(layer()(images()).grad_fn, TrainableGate._backward_cls)


def network(attention="static"):
    parent = nn.Conv2d(12, 12, 3, padding=1)
    child = ChildConv2d(parent, filter=attention, spatial=attention)
    return randomise(nn.Sequential(parent, nn.Tanh(), child).double())


@MODE
@pytest.mark.parametrize("attention", ["static", "dynamic"])
def test_ensemble_by_vmap(mode, attention):
    """As in PyTorch's tutorial on ensembles, and the statistics of each."""
    nets = [network(attention).train(mode == "train") for _ in range(4)]
    parameters, buffers = stack_module_state(copy.deepcopy(nets))
    base, input = nets[0], images()

    def one(parameters, buffers):
        return functional_call(base, (parameters, buffers), (input,))

    with torch.no_grad():
        together = vmap(one)(parameters, buffers)
        torch.testing.assert_close(together, torch.stack([net(input) for net in nets]))
    for name, value in buffers.items():
        torch.testing.assert_close(value, torch.stack([net.get_buffer(name) for net in nets]))


FROZEN = pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trainable"])


@FROZEN
@MODE
def test_forward_mode_derivative(mode, frozen):
    se, (input, direction) = layer().train(mode == "train").requires_grad_(not frozen), images(2, 4, 12, 3, 5)
    _, expected = torch.autograd.functional.jvp(lambda x: dressed.gate(copy.deepcopy(se), x), input, direction)
    assert expected.abs().max() > 1e-4
    with torch.no_grad(), forward_ad.dual_level():
        gate = copy.deepcopy(se)(forward_ad.make_dual(input, direction))
        torch.testing.assert_close(forward_ad.unpack_dual(gate).tangent, expected)
    if mode == "eval":  # torch.func lets nobody update statistics
        torch.testing.assert_close(jvp(se, (input,), (direction,))[1], expected)
        torch.testing.assert_close(jacfwd(se)(input).flatten(2) @ direction.flatten(), expected)


@FROZEN
@MODE
@pytest.mark.parametrize("with_gradients", [True, False], ids=["gradients", "no_grad"])
def test_trace(mode, frozen, with_gradients):
    se = layer().train(mode == "train").requires_grad_(not frozen)
    plain = copy.deepcopy(se)
    with torch.set_grad_enabled(with_gradients):
        traced = torch.jit.trace(se, images(), check_trace=mode == "eval")
        se.load_state_dict(plain.state_dict())
        other = images(7, 12, 6, 2)
        torch.testing.assert_close(traced(other), dressed.gate(plain, other))


@MODE
def test_inference_mode(mode):
    ours, theirs = twins(lambda: layer().train(mode == "train"))
    with torch.inference_mode():
        same_as_by_hand(ours, theirs, images(), False)
        same_as_by_hand(*twins(lambda: layer().train(mode == "train")), images(), False)


@pytest.mark.parametrize("penalty", [False, True], ids=["gradient", "penalty"])
def test_gradients_of_a_gate_that_runs_twice(penalty):
    """What reaches the second call depends on the parameters through the first."""

    def gradients(se, call):
        x = input = images().requires_grad_()
        for _ in range(2):
            x = (x * call(x)[:, :, None, None]).tanh()
        found = torch.autograd.grad(x.square().sum(), [input, *se.parameters()], create_graph=True)
        return torch.autograd.grad(found[0].square().sum(), list(se.parameters())) if penalty else found

    ours, theirs = twins(lambda: layer().train())
    torch.manual_seed(1)
    actual = gradients(ours, ours)
    torch.manual_seed(1)
    expected = gradients(theirs, lambda x: dressed.gate(theirs, x))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_second_gradients_of_a_child_that_runs_three_times():
    def gradients(net, call):
        x = input = images().requires_grad_()
        for _ in range(3):
            x = call(x).tanh()
        (found,) = torch.autograd.grad(x.square().sum(), input, create_graph=True)
        return torch.autograd.grad(found.square().sum(), [net[0].weight, *net[2].parameters()])

    net = network()
    torch.manual_seed(1)
    actual = gradients(net, net[2])
    torch.manual_seed(1)
    expected = gradients(net, lambda x: dressed.child(net[2], x))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


def test_autocast_around_the_backward_alone_changes_nothing():
    ours, theirs = twins(lambda: layer(torch.float32))
    input = images().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        gates = ours(input), dressed.gate(theirs, input)
    found = []
    for gate, se in zip(gates, (ours, theirs), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=se is ours):
            found.append(torch.autograd.grad(gate.sum(), list(se.parameters()), create_graph=True))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("as_by_data", [True, False])
def test_a_copy_in_eval_mode_whose_weights_follow(as_by_data):
    """As moving averages of weights write them, which PyTorch may not count."""
    net, other = network().eval(), network()
    average = copy.deepcopy(net)
    with torch.no_grad():
        before = average(images()), average[2].adapter.se(images())
        for p, q in zip(average.parameters(), other.parameters(), strict=True):
            p.data.lerp_(q.data, 0.5) if as_by_data else p.lerp_(q, 0.5)
        input = images()
        torch.testing.assert_close(average(input), copy.deepcopy(average).eval()(input), rtol=0, atol=0)
        torch.testing.assert_close(average(input), dressed.child(average[2], average[1](average[0](input))))
    assert all(output.isfinite().all() for output in before)


@MODE
@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("shape", [(3, 12, 0, 4), (3, 12, 4, 0), (1, 12, 0, 0)], ids=str)
def test_no_pixels(shape, with_gradients, mode):
    se = layer().train(mode == "train")
    with (
        torch.set_grad_enabled(with_gradients),
        pytest.raises(
            ValueError, match=r"^SqueezeExcite: only the batch of input may be empty, got \[\d+, 12, \d, \d\]$"
        ),
    ):
        se(images(*shape))
    assert se.bn.num_batches_tracked == 0


@pytest.mark.parametrize("attention", ["static", "dynamic"])
def test_hooks_on_the_gate_itself(attention):
    """Also where heads read from its features."""
    child = network(attention)[2].eval()
    child.adapter.se.register_forward_hook(lambda module, args, output: output * 0 + 1)
    c, *_ = child.adapter(images())
    assert c.eq(1).all()


TRANSFORMS = {
    "none": lambda net, input: net(input),
    "no_grad": torch.no_grad()(lambda net, input: net(input)),
    "inference_mode": torch.inference_mode()(lambda net, input: net(input)),
    "vmap": lambda net, input: vmap(lambda x: net(x), randomness="different")(input[None])[0],
    "trace": lambda net, input: torch.jit.trace(net, input, check_trace=False)(input),
    "grad": lambda net, input: torch.func.grad(lambda x: net(x).square().sum())(input),
}


class Net(nn.Module):
    def __init__(self, by_hand):
        super().__init__()
        self.parent = nn.Conv2d(12, 12, 3, padding=1)
        self.child = ChildConv2d(self.parent)
        self.dynamic = DynamicConv2d(12, 12, 3, padding=1, temperature=1)
        self.norm = nn.BatchNorm2d(12)
        self.by_hand = by_hand

    def forward(self, x):
        x = x + torch.tanh(self.parent(x))
        x = x + torch.tanh(dressed.dynamic_conv(self.dynamic, x) if self.by_hand else self.dynamic(x))
        return self.norm(dressed.child(self.child, x)) if self.by_hand else conv_norm(self.child, self.norm, x)


# What a layer of any kind can be dressed with.
OF_A_CONV = [name for name in dressed.OF_A_LINEAR if name not in ("subclass", "tensor subclass")]


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(list(dressed.DRESSED)), max_size=2, unique_by=lambda name: name[:3]),
    st.sampled_from(OF_A_CONV),
    st.sampled_from([None, *dressed.GLOBAL_HOOKS]),
    st.sampled_from(list(TRANSFORMS)),
    st.booleans(),
    st.integers(2, 4),
)
def test_any_mix(names, of_attention, hook, transform, training, samples):
    """A network whose gate is dressed in two places, and the attention of another layer in one, under a hook on all
    modules and a transform: the same result and statistics as by hand, or the same refusal."""
    if hook is not None and "backward" in hook and transform in ("vmap", "grad"):
        hook = None  # torch refuses these in torch.func
    results = []
    for by_hand in (False, True):
        torch.manual_seed(5)
        net = randomise(Net(by_hand).double()).train(training)
        for name in names:
            dressed.DRESSED[name](net.child.adapter.se)
        dressed.OF_A_LINEAR[of_attention](net.dynamic.attention.fc1)
        input = images(samples, 12, 4, 5)
        with dressed.global_hook(hook):
            try:
                results.append([TRANSFORMS[transform](net, input), *net.buffers()])
            except (RuntimeError, ValueError) as error:
                results.append(type(error))
    ours, expected = results
    if isinstance(ours, type) or isinstance(expected, type):
        assert ours == expected
    else:
        torch.testing.assert_close(ours, expected)
