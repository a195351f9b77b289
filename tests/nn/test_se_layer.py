"""SqueezeExcite: the formula in training and eval mode, its gradients, its names, and changes of its parameters."""

import copy
import math

import pytest
import torch
from torch import nn

from kerneldna_ops import use_backend
from kerneldna_ops.nn import SqueezeExcite
from kerneldna_ops.nn._trainable_gate import TrainableGate
from support import plain_layers
from support.cases import CPU
from support.layouts import IMAGES
from support.plain_layers import in_dtype, randomise
from support.tolerance import Truth, assert_within, largest, plain_dtype

pytestmark = pytest.mark.usefixtures("threads")


def layer(channels=12, **options):
    return randomise(SqueezeExcite(channels, **options))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("shape", [(3, 12, 5, 7), (2, 12, 1, 1), (9, 12, 4, 3)], ids=str)
def test_formula(device, shape, mode, dtype):
    se = layer()
    se.train(mode == "train")
    input = torch.randn(shape).to(device, dtype)
    # The rounding of the parameters to the dtype is no error of the layer.
    rounded = in_dtype(se, dtype, device)
    low = plain_dtype(dtype, device)
    truth = plain_layers.gate(in_dtype(rounded, torch.float64), input.cpu().double())
    plain = plain_layers.gate(in_dtype(rounded, low, device), input.to(low))
    with torch.no_grad():
        result = rounded(input)
    assert result.dtype == dtype
    assert_within([result], [Truth("gate", truth, 20.0, math.inf)], [[plain]])


@pytest.mark.parametrize("layout", IMAGES)
def test_input_of_any_layout(layout):
    se = layer().double().eval()
    input = IMAGES[layout](torch.randn(3, 12, 5, 7, dtype=torch.float64))
    with torch.no_grad():
        torch.testing.assert_close(se(input), plain_layers.gate(se, input))


def test_eval_is_the_same_with_and_without_gradient():
    se = layer().double().eval()
    input = torch.randn(3, 12, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        fused = se(input)
    with_grad = se(input)
    assert with_grad.requires_grad
    assert not fused.requires_grad
    torch.testing.assert_close(fused, with_grad)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradients(mode):
    se = layer().double()
    se.train(mode == "train")
    input = torch.randn(3, 12, 3, 2, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(se(input).pow(2).sum(), [input, *se.parameters()])
    plain = torch.autograd.grad(plain_layers.gate(se, input).pow(2).sum(), [input, *se.parameters()])
    torch.testing.assert_close(ours, plain)


def test_gradient_of_the_input_through_frozen_parameters():
    se = layer().double().eval().requires_grad_(False)
    input = torch.randn(3, 12, 3, 2, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(se(input).pow(2).sum(), input)
    (plain,) = torch.autograd.grad(plain_layers.gate(se, input).pow(2).sum(), input)
    torch.testing.assert_close(ours, plain)


def test_training_updates_the_statistics_as_batch_norm_does():
    se, bn = layer(), nn.BatchNorm2d(3)
    bn.load_state_dict(se.bn.state_dict())
    input = torch.randn(5, 12, 4, 4)
    se(input)
    bn(nn.functional.conv2d(input.mean((2, 3), keepdim=True), se.fc1.weight[..., None, None]))
    torch.testing.assert_close(se.bn.state_dict(), bn.state_dict())


def in_one_step(gate):
    return isinstance(gate.grad_fn, TrainableGate._backward_cls)


def without_statistics(se):
    se.bn = nn.BatchNorm1d(3, track_running_stats=False)


def cumulative(se):
    se.bn.momentum = None


def in_another_layout(se):
    se.fc1.weight.data = se.fc1.weight.data.t().contiguous().t()


# [N, C, H, W] and R: vectors and tiles that are full and that are not, and enough work for several threads.
SIZES = [((3, 12, 3, 2), 3), ((2, 1, 1, 1), 1), ((17, 70, 4, 3), 33), ((64, 128, 2, 2), 64)]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("change", [lambda se: None, cumulative, in_another_layout], ids=["as made", "cumulative", "t"])
@pytest.mark.parametrize(("shape", "hidden"), SIZES, ids=str)
def test_one_step_of_autograd_is_what_the_layers_do(shape, hidden, mode, change):
    """Gate, all gradients, those of the gradients, and all buffers, after two steps."""
    se = layer(shape[1], hidden=hidden).double()
    change(se)
    se.train(mode == "train")
    plain = copy.deepcopy(se)
    plain.fc2.register_forward_hook(lambda *args: None)
    for _ in range(2):
        input = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        results = []
        for which in (se, plain):
            gate = which(input)
            assert in_one_step(gate) == (which is se)
            tensors = [input, *which.parameters()]
            once = torch.autograd.grad(gate.square().sum(), tensors, retain_graph=True)
            again = torch.autograd.grad(gate.square().sum(), tensors, create_graph=True)
            twice = torch.autograd.grad(sum(grad.square().sum() for grad in again), tensors)
            results.append([gate, *once, *again, *twice, *which.buffers()])
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("layout", IMAGES)
def test_one_step_in_float32(layout):
    se = layer(40, hidden=24)
    input = IMAGES[layout](torch.randn(5, 40, 6, 7)).requires_grad_()
    exact = copy.deepcopy(se).double()
    results = []
    for which, x in ((se, input), (exact, input.detach().double().requires_grad_())):
        gate = which(x)
        assert in_one_step(gate)
        results.append([gate, *torch.autograd.grad(gate.square().sum(), [x, *which.parameters()]), *which.buffers()])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), expected.double(), rtol=1e-5, atol=1e-5)


def test_layers_that_do_not_fit_get_one_sentence():
    se = layer()
    se.fc2 = nn.Linear(4, 12)
    with pytest.raises(RuntimeError, match=r"fc2_weight must have shape \[12, 3\] or \[12, 3, 1, 1\], got \[12, 4\]"):
        se(torch.randn(3, 12, 3, 2))
    se = layer()
    se.bn = nn.BatchNorm1d(4)
    with pytest.raises(RuntimeError, match=r"bn_weight must have shape \[3\], got \[4\]"):
        se(torch.randn(3, 12, 3, 2))
    assert se.bn.num_batches_tracked == 0


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_of_a_leaf_can_be_written_to(frozen):
    """As adversarial steps do; with and without kernels for it."""
    for se in (layer(), layer().double(), layer().bfloat16()):
        input = torch.randn(3, 12, 3, 2, dtype=se.fc1.weight.dtype, requires_grad=True)
        (grad,) = torch.autograd.grad(se.requires_grad_(not frozen)(input).sum(), input)
        assert grad.clone().sign().equal(grad.sign_())


@pytest.mark.parametrize("wanted", ["input", "fc1.weight", "bn.weight", "bn.bias", "fc2.weight", "fc2.bias"])
def test_only_one_gradient(wanted):
    se, input = layer().double().requires_grad_(False), torch.randn(3, 12, 3, 2, dtype=torch.float64)
    tensor = {"input": input, **dict(se.named_parameters())}[wanted].requires_grad_()
    (plain,) = torch.autograd.grad(plain_layers.gate(se, input).pow(2).sum(), tensor)
    for create_graph in (False, True):
        (ours,) = torch.autograd.grad(se(input).pow(2).sum(), tensor, create_graph=create_graph)
        torch.testing.assert_close(ours, plain)


def test_parameter_changed_before_its_gradient_is_noticed():
    se = layer()
    gate = se(torch.randn(3, 12, 3, 2))
    with torch.no_grad():
        se.fc2.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gate.sum().backward()


CARD = [((3, 19, 7, 5), 5), ((4, 67, 2, 3), 33), ((33, 20, 1, 2), 17), ((5, 40, 20, 17), 16)]


@pytest.mark.on("cuda", "stand-in")
@pytest.mark.without_backends("composite", "reference", "cuda", "cuda_host")
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("shape", "hidden"), CARD, ids=str)
def test_a_step_on_a_card(device, backend, dtype, shape, hidden, mode):
    """Gate, all gradients and the statistics, which have kernels of their own, against the layers in float64."""
    se = in_dtype(layer(shape[1], hidden=hidden).train(mode == "train"), dtype)
    input = (torch.randn(shape) + torch.randn(shape[1], 1, 1)).to(dtype)
    weights = torch.linspace(-1, 2, shape[0] * shape[1], dtype=torch.float64).view(shape[:2])

    def step(which, precision, place):
        copied, x = in_dtype(se, precision, place), input.to(place, precision).requires_grad_()
        with use_backend(which):
            gate = copied(x)
        assert (getattr(gate.grad_fn, "kernels", None) is not None) == (which == "triton")
        gradients = torch.autograd.grad((gate * weights.to(gate)).sum(), [x, *copied.parameters()])
        return [gate.detach(), *gradients, copied.bn.running_mean, copied.bn.running_var]

    exact = step("composite", torch.float64, CPU)
    plain = step("composite", plain_dtype(dtype, device), device)
    # The gradients lose much where terms cancel, in the statistics above all; how much, plain PyTorch shows.
    truths = [Truth(f"result {i}", value, 4 * largest(value), math.inf) for i, value in enumerate(exact)]
    results, again = (step(backend, dtype, device) for _ in range(2))
    assert_within(results, truths, [plain])
    for both in zip(results, again, strict=True):
        assert torch.equal(*both)


LAYER_BY_LAYER = {
    "hook": lambda se: se.fc1.register_forward_hook(lambda *args: None),
    "parametrization": lambda se: nn.utils.parametrizations.weight_norm(se.fc2),
    "no statistics": without_statistics,
    "bias of another fc1": lambda se: setattr(se, "fc1", nn.Linear(12, 3)),
    "another layer": lambda se: setattr(se, "bn", nn.SyncBatchNorm(3)),
    "statistics in another precision": lambda se: se.bfloat16().bn.float(),
    "float16": lambda se: se.half(),
    "device": lambda se: se.to("meta"),
}


@pytest.mark.parametrize("why", LAYER_BY_LAYER)
def test_what_one_step_cannot_do_is_done_layer_by_layer(why):
    se = layer()
    LAYER_BY_LAYER[why](se)
    if why == "another layer":  # which trains on a GPU only
        se.eval()
    gate = se(torch.randn(3, 12, 3, 2).to(se.fc1.weight))
    assert not in_one_step(gate)
    gate.sum().backward()


def test_names_and_sizes_of_the_parameters():
    shapes = {name: tuple(value.shape) for name, value in SqueezeExcite(48).state_dict().items()}
    assert shapes == {
        "fc1.weight": (12, 48),
        "bn.weight": (12,),
        "bn.bias": (12,),
        "bn.running_mean": (12,),
        "bn.running_var": (12,),
        "bn.num_batches_tracked": (),
        "fc2.weight": (48, 12),
        "fc2.bias": (48,),
    }
    assert SqueezeExcite(48, reduction=24).fc1.out_features == 2
    assert SqueezeExcite(48, hidden=7).fc1.out_features == 7


def test_loads_weights_of_1x1_convolutions():
    """As published networks store them; the caller's dictionary stays as it is."""
    se, other = layer(), SqueezeExcite(12)
    state = se.state_dict()
    published = {key: value[..., None, None] if value.dim() == 2 else value for key, value in state.items()}
    wrapped = nn.ModuleDict({"se": other})
    wrapped.load_state_dict({f"se.{key}": value for key, value in published.items()})
    torch.testing.assert_close(dict(other.state_dict()), dict(state))
    assert published["fc1.weight"].shape == (3, 12, 1, 1)


def test_empty_batch():
    se = layer()
    before = se.state_dict()["bn.running_mean"].clone()
    assert se(torch.empty(0, 12, 3, 3)).shape == (0, 12)
    with torch.no_grad():
        assert se.eval()(torch.empty(0, 12, 3, 3)).shape == (0, 12)
    assert se.bn.running_mean.equal(before)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(low, mode):
    se = layer()
    se.train(mode == "train")
    input = torch.randn(3, 12, 5, 7)
    with torch.no_grad():
        expected = plain_layers.gate(se, input)
        with torch.autocast("cpu", low):
            gate = se(input)
    assert gate.dtype == low
    torch.testing.assert_close(gate.float(), expected, rtol=0, atol=0.03)


def fused_equals_plain(se, input):
    with torch.no_grad():
        torch.testing.assert_close(se(input), plain_layers.gate(se, input))


def load(se):
    se.load_state_dict(layer().double().state_dict())


def load_by_assignment(se):
    se.load_state_dict(layer().double().state_dict(), assign=True)


def step(se):
    se.fc1.weight.grad = torch.randn_like(se.fc1.weight)
    torch.optim.SGD([se.fc1.weight], 1.0).step()


def fused_training_step(se):
    """PyTorch does not count what fused optimizers write."""
    optimizer = torch.optim.AdamW([se.fc1.weight], 0.1, fused=True)
    se(torch.randn(3, 12, 5, 7, dtype=torch.float64)).square().sum().backward()
    with torch.no_grad():
        se(torch.randn(3, 12, 5, 7, dtype=torch.float64))
    optimizer.step()
    se.zero_grad()


def write_in_place(name):
    def write(se):
        with torch.no_grad():
            se.get_parameter(name).mul_(1.5) if "running" not in name else se.get_buffer(name).mul_(1.5)

    return write


def set_data(se):
    se.bn.weight.data = se.bn.weight.data * 1.5


def replace_parameter(se):
    se.fc1.weight = nn.Parameter(se.fc1.weight.detach() * 1.5)


def recalibrate(se):
    """New statistics for a BatchNorm put in training mode by itself, whose update PyTorch does not count."""
    se.bn.train()
    with torch.no_grad():
        se(torch.randn(7, 12, 4, 4, dtype=torch.float64) * 3)
    se.bn.eval()


def write_uncounted(se):
    """As moving averages of weights do."""
    se.fc1.weight.data.mul_(1.5)


CHANGES = {
    "load_state_dict": load,
    "load_state_dict(assign=True)": load_by_assignment,
    "optimizer step": step,
    "fused training step": fused_training_step,
    **{f"{name}.mul_()": write_in_place(name) for name in ("fc1.weight", "bn.bias", "bn.running_mean", "fc2.weight")},
    ".data =": set_data,
    "new parameter": replace_parameter,
    "recalibrated": recalibrate,
    ".data.mul_()": write_uncounted,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_parameter_is_followed(change):
    se = layer().double().eval()
    input = torch.randn(3, 12, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        before = se(input)
    CHANGES[change](se)
    fused_equals_plain(se, input)
    with torch.no_grad():
        assert not se(input).allclose(before)


ERRORS = [
    (torch.zeros(12, 3, 3), ValueError, r"input must be 4-D \[N, 12, H, W\], got 3-D \[12, 3, 3\]"),
    (torch.zeros(2, 11, 3, 3), ValueError, r"input must have 12 channels, got 11 in \[2, 11, 3, 3\]"),
    (torch.zeros(2, 12, 3, 3).half(), TypeError, r"fc1.weight must have the dtype of input \(float16\), got float32"),
    (torch.zeros(2, 12, 3, 3, dtype=torch.int32), TypeError, "input must be float64, .*, got int32"),
    (
        torch.zeros(2, 12, 3, 3, device="meta"),
        ValueError,
        r".* must be on the device of input \(meta\), got cpu",
    ),
    ([1, 2], TypeError, "input must be a tensor, got list"),
]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("input", "error", "sentence"), ERRORS, ids=[sentence for *_, sentence in ERRORS])
def test_bad_input(input, error, sentence, mode):
    se = SqueezeExcite(12).train(mode == "train")
    with torch.no_grad(), pytest.raises(error, match=f"^SqueezeExcite: {sentence}$"):
        se(input)


def test_one_sample_in_training():
    with pytest.raises(ValueError, match=r"^SqueezeExcite: training needs at least 2 samples, .* \[1, 12, 3, 3\]$"):
        SqueezeExcite(12)(torch.zeros(1, 12, 3, 3))
    se = SqueezeExcite(12)
    se.bn.eval()  # frozen statistics need no batch
    se(torch.zeros(1, 12, 3, 3))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"channels": 8, "reduction": 0}, "reduction must be at least 1, got 0"),
        ({"channels": 3}, r"hidden \(else channels // reduction\) must be at least 1, got 0"),
        ({"channels": 8, "hidden": -2}, r"hidden \(else channels // reduction\) must be at least 1, got -2"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=f"^SqueezeExcite: {sentence}$"):
        SqueezeExcite(**arguments)
