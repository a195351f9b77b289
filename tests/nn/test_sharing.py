"""A parent and its children in one network: one kernel, through copies, files, precisions and replacement."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.nn import ChildConv2d

pytestmark = pytest.mark.usefixtures("threads")


class Family(nn.Module):
    """One parent and two children, one of which is registered before it."""

    def __init__(self):
        super().__init__()
        parent = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.first = ChildConv2d(parent)
        self.parent = parent
        self.second = ChildConv2d(parent, filter="dynamic", spatial=None, bias=True)

    def forward(self, x):
        return self.second(F.relu(self.parent(F.relu(self.first(x)))))


@pytest.fixture
def family():
    return Family()


@pytest.fixture
def input():
    return torch.randn(4, 8, 6, 5)


def borrows_within(family):
    return family.first.parent is family.parent and family.second.parent is family.parent


def output(family, input):
    with torch.no_grad():
        return copy.deepcopy(family).eval()(input)


def test_weight_is_registered_once(family):
    weight = family.parent.weight
    assert [name for name, p in family.named_parameters(remove_duplicate=False) if p is weight] == ["parent.weight"]
    assert [name for name in family.state_dict() if "parent" in name] == ["parent.weight"]
    assert [name for name, module in family.named_modules() if module is family.parent] == ["parent"]
    for child in (family.first, family.second):
        assert all(p.shape != weight.shape for p in child.parameters())
        assert "parent" not in dict(child.named_children())
        assert all("parent" not in name for name in child.state_dict())


def test_gradient_of_the_weight_is_the_sum_over_the_family(family, input):
    family(input).square().sum().backward()
    together = family.parent.weight.grad.clone()
    parts = torch.zeros_like(together)
    for user in ("first", "parent", "second"):
        network = copy.deepcopy(family)
        # The other two get frozen parents of their own, with the same values.
        for child in (network.first, network.second):
            child.parent = copy.deepcopy(network.parent).requires_grad_(False)
        kernel = network.parent
        if user != "parent":
            getattr(network, user).parent = kernel
            network.parent = copy.deepcopy(kernel).requires_grad_(False)
        network.zero_grad()
        network(input).square().sum().backward()
        parts += kernel.weight.grad
    torch.testing.assert_close(together, parts)


def test_optimizer_sees_the_weight_once_and_moves_the_whole_family(family, input):
    optimizer = torch.optim.SGD(family.parameters(), 0.1)
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert ids.count(id(family.parent.weight)) == 1
    assert len(ids) == len(set(ids))
    before = family.parent.weight.detach().clone()
    family(input).square().sum().backward()
    optimizer.step()
    assert family.first.parent.weight.equal(family.parent.weight)
    assert not family.first.parent.weight.equal(before)


def saved_and_loaded(family):
    file = io.BytesIO()
    torch.save(family, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda family: pickle.loads(pickle.dumps(family)), saved_and_loaded],
    ids=["deepcopy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_copy_of_a_network_borrows_from_its_own_parent(family, input, duplicate, mode):
    family.train(mode == "train")
    expected = output(family, input)
    with torch.no_grad():
        family(input)  # so that in eval mode there is a folded weight
    twin = duplicate(family)
    assert borrows_within(twin)
    assert twin.parent is not family.parent
    torch.testing.assert_close(output(twin, input), output(family, input))

    with torch.no_grad():
        twin.parent.weight.zero_()
    if mode == "eval":
        torch.testing.assert_close(output(family, input), expected)
        assert twin.first(input).eq(0).all()


def test_folded_weight_is_not_pickled(family, input):
    size = len(pickle.dumps(family.eval()))
    with torch.no_grad():
        family(input)
    assert len(pickle.dumps(family)) == size


def test_child_copied_alone_takes_a_copy_of_its_parent_along(family, input):
    alone = copy.deepcopy(family.first).eval()
    assert alone.parent is not family.parent
    assert alone.parent.weight.equal(family.parent.weight)
    assert all(p.shape != alone.parent.weight.shape for p in alone.parameters())
    with torch.no_grad():
        before = alone(input)
        family.parent.weight.zero_()
        assert alone(input).equal(before)


def test_state_dict_round_trip(family, input):
    other = Family()
    assert not output(other, input).allclose(output(family, input))
    other.load_state_dict(family.state_dict())
    assert borrows_within(other)
    torch.testing.assert_close(output(other, input), output(family, input))


def test_state_dict_of_a_child_alone_loads_into_another_family(family):
    other = Family()
    weight = other.parent.weight.detach().clone()
    other.first.load_state_dict(family.first.state_dict())
    assert other.parent.weight.equal(weight)


def test_network_changes_dtype_as_a_whole(family, input, dtype):
    for network in (family.to(dtype), family.to(dtype).eval()):
        assert borrows_within(network)
        assert network(input.to(dtype)).dtype == dtype


def test_child_alone_does_not_move_its_parent(family, input):
    family.first.double()
    assert family.parent.weight.dtype == torch.float32
    with pytest.raises(TypeError, match="the parent's weight must have the dtype of input"):
        family.first(input.double())


def test_parameter_replaced_in_the_parent(family, input):
    """What FSDP, parametrisations and load_state_dict(assign=True) do."""
    family.eval()
    with torch.no_grad():
        family.first(input)
        family.parent.weight = nn.Parameter(torch.zeros_like(family.parent.weight))
        assert family.first(input).eq(0).all()


def test_parametrised_parent(family, input):
    with torch.no_grad():
        expected = family.eval().first(input)
    nn.utils.parametrizations.weight_norm(family.parent)
    with torch.no_grad():
        torch.testing.assert_close(family.first(input), expected)
        family.parent.parametrizations.weight.original0.mul_(2)
        torch.testing.assert_close(family.first(input), 2 * expected)
    family.first(input).sum().backward()
    assert family.parent.parametrizations.weight.original0.grad is not None


def test_another_parent(family, input):
    family.eval()
    with torch.no_grad():
        before = family.first(input)
        other = nn.Conv2d(8, 8, 3, padding=1)
        family.first.parent = other
        after = family.first(input)
    assert family.first.parent is other
    assert "first.parent.weight" not in family.state_dict()
    assert not after.allclose(before)


@pytest.mark.parametrize(
    ("parent", "error", "sentence"),
    [
        (nn.Conv2d(8, 8, 5), ValueError, r"parent must have kernel_size=\(3, 3\), got \(5, 5\)"),
        (nn.Conv2d(8, 16, 3), ValueError, "parent must have out_channels=8, got 16"),
        (nn.Conv2d(4, 8, 3), ValueError, "parent must have in_channels=8, got 4"),
        (nn.Conv2d(8, 8, 3, groups=2), ValueError, "parent must have groups=1, got 2"),
        (None, TypeError, "parent must be a torch.nn.Conv2d, got NoneType"),
    ],
    ids=str,
)
def test_parent_of_another_shape(family, parent, error, sentence):
    with pytest.raises(error, match=f"^ChildConv2d: {sentence}$"):
        family.first.parent = parent
    assert borrows_within(family)


def test_functional_call_reaches_the_children(family, input):
    family.eval()
    other = Family().eval()
    with torch.no_grad():
        expected, own = other(input), family(input)
        torch.testing.assert_close(torch.func.functional_call(family, other.state_dict(), (input,)), expected)
        torch.testing.assert_close(family(input), own)


def test_ensemble_by_vmap(input):
    families = [Family().eval() for _ in range(3)]
    state = torch.func.stack_module_state(families)
    with torch.no_grad():
        together = torch.func.vmap(lambda *s: torch.func.functional_call(families[0], s, (input,)))(*state)
        torch.testing.assert_close(together, torch.stack([family(input) for family in families]))
