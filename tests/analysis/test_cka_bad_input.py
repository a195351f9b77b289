"""What cka and compare say of what they cannot take, in one sentence."""

import sys

import pytest
import torch
from torch import nn

from kerneldna_ops.analysis import cka, compare

pytestmark = pytest.mark.usefixtures("threads")


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.Flatten())


def batch(size=5):
    return torch.randn(size, 2, 3, 3)


class Output(nn.Module):
    """A layer that gives `value`."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, input):
        return self.value


@pytest.mark.parametrize(
    ("batches", "error", "sentence"),
    [
        ([], ValueError, "cka: batches must hold at least one batch, got none"),
        (
            [batch(), batch(3)],
            ValueError,
            "cka: a batch must have at least 4 samples for the unbiased estimator, got 3 (a DataLoader with"
            " drop_last=True leaves a short last batch out)",
        ),
        (batch(), TypeError, "cka: batches must be an iterable of batches, got one tensor (for one batch, [tensor])"),
        (
            [{"images": batch()}],
            TypeError,
            "cka: a batch must be a tensor [B, ...], or a tuple or list that starts with one, got dict",
        ),
        (
            [()],
            TypeError,
            "cka: a batch must be a tensor [B, ...], or a tuple or list that starts with one, got tuple",
        ),
        (
            [torch.tensor(1.0)],
            TypeError,
            "cka: a batch must be a tensor [B, ...], or a tuple or list that starts with one, got a scalar",
        ),
        ([batch().fill_(torch.nan)], ValueError, "cka: the features of layer '0' hold NaN or infinity"),
    ],
    ids=["none", "short", "tensor", "dict", "empty tuple", "scalar", "nan"],
)
def test_batches(batches, error, sentence):
    with pytest.raises(error) as raised:
        cka(network(), batches)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([], "cka: layers must name at least one module, got none"),
        (["0", "1.00"], "cka: Sequential has no module '1.00', did you mean '1.0'?"),
        (["head"], "cka: Sequential has no module 'head'"),
        ("1.3", "cka: Sequential has no module '1.3', did you mean '1.1' or '1.0'?"),
        (lambda name, module: False, "cka: Sequential has no module for which layers(name, module) is true"),
    ],
    ids=["none", "close", "far", "string", "predicate"],
)
def test_layers(layers, sentence):
    with pytest.raises(ValueError, match=r"^cka: ") as raised:
        cka(network(), [batch()], layers)
    assert str(raised.value) == sentence


def test_model():
    with pytest.raises(TypeError, match=r"^cka: model must be an nn.Module, got function$"):
        cka(batch, [batch()])
    with pytest.raises(ValueError, match=r"^cka: ReLU has no nn.Conv2d or ChildConv2d$"):
        compare(network(), nn.ReLU(), [batch()])


def test_nan_arises_in_a_layer():
    model = network()
    with torch.no_grad():
        model[1][0].weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"^cka: the features of layer '1\.0' hold NaN or infinity$"):
        cka(model, [batch()])


def test_products_overflow():
    with pytest.raises(ValueError, match=r"^cka: the features of layer '0' are too large: their products overflow$"):
        cka(network(), [batch() * 1e30])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ((batch(), batch()), "cka: the output of layer '0' must be one floating-point tensor, got tuple"),
        (torch.arange(5), "cka: the output of layer '0' must be one floating-point tensor, got int64"),
        (
            torch.randn(20, 7),
            "cka: the output of layer '0' must be [5, ...], the first dimension that of the input, got [20, 7]",
        ),
        (
            torch.tensor(1.0),
            "cka: the output of layer '0' must be [5, ...], the first dimension that of the input, got []",
        ),
    ],
    ids=["tuple", "integers", "windows", "scalar"],
)
def test_outputs(value, sentence):
    with pytest.raises((TypeError, ValueError)) as raised:
        cka(nn.Sequential(Output(value)), [batch()], ["0"])
    assert str(raised.value) == sentence


class Fickle(nn.Module):
    """Runs its layers in an order that the input chooses."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.spare = (nn.Conv2d(2, 2, 1) for _ in range(3))

    def forward(self, input):
        number = int(input[0, 0, 0, 0])
        for layer in ((), (self.first, self.second), (self.second, self.first), (self.first,))[number]:
            layer(input)


@pytest.mark.parametrize(
    ("numbers", "layers", "end"),
    [
        ((1, 3), None, "but not all did through second"),
        ((1, 2), None, "but not all did through second, first"),
        ((1, 0), None, "but not all did through first, second"),
        ((1,), ["first", "spare"], "the forward pass did not run layer 'spare'"),
        ((0,), None, "no forward pass went through any of the layers first, second, spare"),
    ],
)
def test_layers_that_do_not_run(numbers, layers, end):
    batches = [torch.full((4, 2, 1, 1), float(number)) for number in numbers]
    with pytest.raises(ValueError, match=f"^cka: .*{end}$"):
        cka(Fickle(), batches, layers)


def test_layers_that_nobody_named_may_not_run():
    assert cka(Fickle(), [torch.randn(4, 2, 1, 1).clamp(-0.5, 0.5) + 1.5]).names == ("first", "second")


def test_progress_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^cka: progress=True needs tqdm, which cannot be imported: .*\[train\]"
    ):
        cka(network(), [batch()], progress=True)
