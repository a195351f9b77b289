"""cka and compare: the same as the definition, what does not change it, and nothing kept or left behind."""

import gc
import weakref

import pytest
import torch
from torch import nn

from kerneldna_ops.analysis import cka, compare
from kerneldna_ops.nn import ChildConv2d, conv_norm
from support.dense_cka import dense_cka

pytestmark = pytest.mark.usefixtures("threads")


class Network(nn.Module):
    """A convolution, one that runs twice, and its child, with BatchNorm in one op with them in eval mode."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.again = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.child = ChildConv2d(self.again, reduction=2)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x).relu_()
        x = conv_norm(self.again, self.norm, x).relu_()
        x = conv_norm(self.again, self.norm, x).relu_()
        x = conv_norm(self.child, self.norm, x)
        return self.head(x.mean((2, 3)))

    def features(self, x):
        """What the convolutions give in eval mode."""
        stem = self.stem(x)
        first = self.again(stem.relu())
        second = self.again(self.norm(first).relu())
        return [stem, first, second, self.child(self.norm(second).relu())]


class Views(nn.Module):
    """Layers whose features are these functions of the input."""

    def __init__(self, **functions):
        super().__init__()
        self.functions = functions
        self.layers = nn.ModuleDict({name: nn.Identity() for name in functions})

    def forward(self, x):
        for name, function in self.functions.items():
            self.layers[name](function(x))

    def cka(self, batches):
        return cka(self, batches, [f"layers.{name}" for name in self.functions]).matrix


def network():
    torch.manual_seed(1)
    model = Network()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    return model


def batches(count=3, size=6):
    torch.manual_seed(2)
    return [torch.randn(size, 3, 7, 5) for _ in range(count)]


def test_like_the_definition():
    model = network()
    result = cka(model, batches())
    assert result.names == result.columns == ("stem", "again", "again#2", "child")
    assert (result.batches, result.samples) == (3, 18)
    assert result.matrix.dtype == torch.float64
    with torch.no_grad():
        expected = dense_cka([model.eval().features(batch) for batch in batches()])
    assert (expected - 1).abs().max() > 0.1  # or the comparison would not mean much
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=1e-6)


def test_layers_by_name_and_by_predicate():
    model = network()
    named = cka(model, batches(), ["child", "stem"])
    assert named.names == ("stem", "child")
    everything = cka(model, batches())  # the layer between them, looked at, is not one op with its BatchNorm
    torch.testing.assert_close(named.matrix, everything.matrix[::3, ::3], rtol=0, atol=1e-6)
    assert cka(model, batches(), "stem").names == ("stem",)
    found = cka(model, batches(), lambda name, module: isinstance(module, nn.Linear) and "adapter" not in name)
    assert found.names == ("head",)


def test_labels_in_the_batches_are_ignored():
    plain = cka(network(), batches())
    labelled = cka(network(), ([images, torch.zeros(6)] for images in batches()))
    assert labelled.matrix.equal(plain.matrix)


def test_a_batch_counts_with_its_number_of_samples():
    """Two batches of 8 and one of 4: the sums of HSIC times samples, from the batches by themselves."""
    model, inputs = network().double(), [batch.double() for batch in (*batches(2, 8), *batches(1, 4))]
    merged = cka(model, inputs).matrix
    with torch.no_grad():
        grams = [[f.flatten(1) @ f.flatten(1).T for f in model.eval().features(batch)] for batch in inputs]
    total = sum(len(k[0]) * torch.stack([torch.stack([hsic_by_traces(a, b) for b in k]) for a in k]) for k in grams)
    norms = total.diagonal().sqrt()
    torch.testing.assert_close(merged, total / torch.outer(norms, norms), rtol=0, atol=1e-9)


def hsic_by_traces(k, m):
    n = len(k)
    k, m = (matrix - torch.diag(matrix.diagonal()) for matrix in (k, m))
    last = k.sum(0) @ m.sum(1)
    return ((k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * last) / (n * (n - 3))


def test_what_changes_nothing_and_what_does():
    rotation = torch.linalg.qr(torch.randn(20, 20)).Q
    mixing = torch.randn(20, 20)
    matrix = Views(
        plain=lambda x: x,
        rotated=lambda x: x @ rotation,
        scaled=lambda x: 1e-3 * x,
        moved=lambda x: x + 100,
        reordered=lambda x: x.view(-1, 4, 5).permute(0, 2, 1),
        rounded=lambda x: x.half(),
        mixed=lambda x: x @ mixing,
    ).cka([torch.randn(12, 20) for _ in range(4)])
    torch.testing.assert_close(matrix[:5, :5], torch.ones(5, 5, dtype=torch.float64), rtol=0, atol=1e-4)
    assert 1 - 1e-3 < matrix[0, 5] < 1
    assert 0.1 < matrix[0, 6] < 0.9
    torch.testing.assert_close(matrix.diagonal(), torch.ones(7, dtype=torch.float64))
    assert matrix.equal(matrix.T)


def test_channels_last_features():
    torch.manual_seed(0)
    inputs = [torch.randn(6, 3, 7, 5) for _ in range(3)]
    matrix = Views(plain=lambda x: x, last=lambda x: x.to(memory_format=torch.channels_last)).cka(inputs)
    torch.testing.assert_close(matrix, torch.ones(2, 2, dtype=torch.float64))


def test_unrelated_layers_have_none():
    """Independent features: about 0, on either side of it, though there are few samples and many features."""
    pairs = []
    for _ in range(20):
        generator = torch.Generator().manual_seed(len(pairs))
        noise = Views(one=lambda x: x, other=lambda x, g=generator: torch.randn(len(x), 50, generator=g))
        pairs.append(float(noise.cka([torch.randn(5, 50) for _ in range(10)])[0, 1]))
    pairs = torch.tensor(pairs)
    assert pairs.min() < 0 < pairs.max()
    assert pairs.mean().abs() < 4 * pairs.std() / len(pairs) ** 0.5


def test_constant_features_have_none():
    constant = torch.linspace(0.1, 3, 70000)
    matrix = Views(plain=lambda x: x, constant=lambda x: constant.expand(len(x), -1)).cka([torch.randn(7, 3)])
    assert matrix[0, 0] == pytest.approx(1)
    assert matrix[1].isnan().all()
    assert matrix[:, 1].isnan().all()


def test_autocast_does_not_reach_the_products():
    views = Views(plain=lambda x: x, moved=lambda x: x * 100 + 3000)
    inputs = [torch.randn(8, 40) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        matrix = views.cka(inputs)
    torch.testing.assert_close(matrix, views.cka(inputs), rtol=0, atol=0)


def test_memory_does_not_grow_with_the_batches():
    held = {}

    def stream():
        for number in range(12):
            if number in (2, 11):
                held[number] = bytes_in_tensors()
            yield torch.randn(6, 3, 7, 5)

    assert cka(network(), stream()).batches == 12
    assert held[2] == held[11]


def bytes_in_tensors():
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.layout == torch.strided]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_features_are_not_kept():
    """What the first layer gave is gone when the last one runs."""
    model, alive = network(), []
    outputs = []
    model.stem.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))
    model.child.register_forward_pre_hook(lambda module, args: alive.append(outputs[-1]() is not None))
    cka(model, batches())
    assert alive == [False] * 3


def test_the_model_is_left_as_it_was():
    model = network().train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cka(model, batches())
    with pytest.raises(RuntimeError, match="channels"):
        cka(model, [torch.randn(6, 5, 7, 5)])
    with pytest.raises(ValueError, match="NaN"):
        cka(model, [torch.full((6, 3, 7, 5), torch.nan)])
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model(batches()[0]).sum().backward()


def test_the_model_is_free_between_batches():
    """So that the batches can come from something that uses it."""
    model = network().train()

    def stream():
        for batch in batches():
            assert model.training
            assert not model.stem._forward_hooks
            yield batch

    assert cka(model, stream()).batches == 3


def test_comparison_of_two_networks():
    before, after = network(), network()
    with torch.no_grad():
        after.child.adapter.filter_attention.normal_()
    result = compare(before, after, batches())
    assert result.before.matrix.equal(cka(before, batches()).matrix)
    torch.testing.assert_close(result.after.matrix, cka(after, batches()).matrix)
    assert result.across.names == result.before.names
    assert result.across.columns == result.after.names
    torch.testing.assert_close(result.across.matrix[:3, :3], result.before.matrix[:3, :3])
    assert result.across.matrix[3, 3] < 0.999
    with torch.no_grad():
        both = [before.eval().features(batch) + after.eval().features(batch) for batch in batches()]
    torch.testing.assert_close(result.across.matrix, dense_cka(both)[:4, 4:], rtol=0, atol=1e-6)


def test_comparison_of_networks_with_layers_in_common():
    class Other(nn.Module):
        def __init__(self, stem):
            super().__init__()
            self.first = stem
            self.second = nn.Conv2d(6, 6, 3)

        def forward(self, x):
            return self.second(self.first(x))

    before = network()
    result = compare(before, Other(before.stem), batches())
    assert result.before.names == ("stem", "again", "again#2", "child")
    assert result.after.names == ("first", "second")
    assert result.across.matrix[0, 0] == pytest.approx(1, abs=1e-12)


def test_progress(capsys):
    cka(network(), batches(), progress=True)
    assert "3/3" in capsys.readouterr().err
    cka(network(), batches())
    assert capsys.readouterr().err == ""
