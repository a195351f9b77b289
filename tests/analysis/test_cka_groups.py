"""suggest_groups: on matrices made up for the purpose."""

import pytest
import torch
from torch import nn

from kerneldna_ops.analysis import CKA, cka, suggest_groups
from kerneldna_ops.nn import ChildConv2d

pytestmark = pytest.mark.usefixtures("threads")


def network(count=6, **layers):
    """Convolutions a, b, c, ... of one shape, and others."""
    same = {name: nn.Conv2d(4, 4, 3) for name in "abcdefgh"[:count]}
    return nn.ModuleDict(same | layers)


def similarity(model, values, default=0.5, names=None):
    """CKA of the model's layers: `values` by pairs such as "ab", `default` for the others."""
    names = tuple(model) if names is None else names
    matrix = torch.full((len(names), len(names)), default, dtype=torch.float64).fill_diagonal_(1)
    for (one, other), value in values.items():
        i, j = names.index(one), names.index(other)
        matrix[i, j] = matrix[j, i] = value
    return CKA(names, names, matrix, 1, 4)


def test_two_clusters_and_one_alone():
    model = network(6)
    values = {"ab": 0.97, "bc": 0.98, "ac": 0.95, "de": 0.92}
    assert suggest_groups(similarity(model, values), model) == {"b": ["a", "c"], "d": ["e"]}


def test_every_member_is_similar_to_every_other():
    """A chain a - b - c - d: c is like b, but not enough like a to join them."""
    model = network(4)
    values = {"ab": 0.99, "bc": 0.98, "cd": 0.97}
    assert suggest_groups(similarity(model, values), model) == {"a": ["b"], "c": ["d"]}


def test_threshold_is_included():
    model = network(2)
    assert suggest_groups(similarity(model, {"ab": 0.9}), model, threshold=0.9) == {"a": ["b"]}
    assert suggest_groups(similarity(model, {"ab": 0.9}), model, threshold=0.9001) == {}


@pytest.mark.parametrize(
    ("max_size", "groups"),
    [(2, {"a": ["b"], "c": ["d"]}), (3, {"a": ["b"], "c": ["d"]}), (4, {"a": ["b", "c", "d"]})],
)
def test_at_most_max_size(max_size, groups):
    model = network(4)
    values = {"ab": 0.99, "cd": 0.98, "ac": 0.95, "ad": 0.95, "bc": 0.94, "bd": 0.94}
    assert suggest_groups(similarity(model, values), model, max_size=max_size) == groups


def test_of_equals_the_first_to_run():
    model = network(5)
    everything_alike = similarity(model, {}, default=0.95)
    assert suggest_groups(everything_alike, model, max_size=2) == {"a": ["b"], "c": ["d"]}
    reversed_order = similarity(model, {}, default=0.95, names=tuple("edcba"))
    assert suggest_groups(reversed_order, model, max_size=2) == {"e": ["d"], "c": ["b"]}


def test_only_kernels_that_can_be_shared():
    a = nn.Conv2d(4, 4, 3)

    class Derived(nn.Conv2d):
        pass

    parent = nn.Conv2d(4, 4, 3)
    model = nn.ModuleDict(
        {
            "a": a,
            "narrow": nn.Conv2d(4, 4, 1),
            "grouped": nn.Conv2d(8, 4, 3, groups=2),
            "derived": Derived(4, 4, 3),
            "parent": parent,
            "child": ChildConv2d(parent),
            "linear": nn.Linear(4, 4),
            "b": nn.Conv2d(4, 4, 3, stride=2, bias=False),
        }
    )
    assert model["grouped"].weight.shape == a.weight.shape
    assert suggest_groups(similarity(model, {}, default=1.0), model, max_size=8) == {"a": ["b"]}


def test_a_layer_without_cka_is_in_no_group():
    model = network(3)
    everything_alike = similarity(model, {}, default=1.0)
    everything_alike.matrix[0] = everything_alike.matrix[:, 0] = torch.nan
    assert suggest_groups(everything_alike, model, threshold=0) == {"b": ["c"]}


def test_order():
    """Parents in the order in which they run, whatever their shapes."""
    narrow = {"x": nn.Conv2d(4, 4, 1), "y": nn.Conv2d(4, 4, 1)}
    model = network(3, **narrow)
    values = {"ab": 0.95, "ac": 0.97, "bc": 0.98, "xy": 0.99}
    groups = suggest_groups(similarity(model, values, names=tuple("axybc")), model)
    assert list(groups.items()) == [("x", ["y"]), ("c", ["a", "b"])]


def test_the_first_run_of_a_layer_counts():
    model = network(2)
    names = ("a", "b", "a#2")
    matrix = torch.tensor([[1, 0.2, 0.3], [0.2, 1, 1], [0.3, 1, 1]], dtype=torch.float64)
    assert suggest_groups(CKA(names, names, matrix, 1, 4), model) == {}


def test_measured():
    """A layer whose kernel is another's but for scale, on the same input."""

    class Parallel(nn.ModuleDict):
        def forward(self, x):
            return [self[name](x) for name in ("a", "b", "c")]

    torch.manual_seed(0)
    model = Parallel({"c": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 4, 1), "a": nn.Conv2d(3, 4, 1)})
    with torch.no_grad():
        model["c"].weight.copy_(model["a"].weight * 3)
        model["b"].weight[:, 1:] = 0
    measured = cka(model, [torch.randn(8, 3, 2, 2) for _ in range(4)])
    assert suggest_groups(measured, model, threshold=0.99) == {"a": ["c"]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"threshold": 1.5}, "threshold must be between 0 and 1, got 1.5"),
        ({"threshold": float("nan")}, "threshold must be between 0 and 1, got nan"),
        ({"max_size": 1}, "max_size must be at least 2, got 1"),
    ],
)
def test_bad_numbers(change, sentence):
    model = network(2)
    with pytest.raises(ValueError, match=f"^suggest_groups: {sentence}$"):
        suggest_groups(similarity(model, {}), model, **change)


def test_bad_similarity():
    model = network(2)
    across = CKA(("a", "b"), ("a",), torch.ones(2, 1), 1, 4)
    with pytest.raises(ValueError, match=r"^suggest_groups: similarity must be within one network, got one across two"):
        suggest_groups(across, model)
    other = similarity(network(3), {})
    with pytest.raises(ValueError, match=r"^suggest_groups: similarity has a layer 'c', which ModuleDict has not$"):
        suggest_groups(other, model)
