"""The way back: the very modules and weights that were there, bit by bit."""

import copy

import pytest
import torch
from torch import nn

from kerneldna_ops.sharing import materialize, share_kernels
from support.sharing_networks import PAIRS, disturb, output, same, state_of


@pytest.mark.parametrize("weight", ["parent", "mean"])
def test_undo_puts_back_the_very_modules_and_weights(net, images, weight):
    modules, parameters = dict(net.named_modules()), dict(net.named_parameters())
    before, expected = state_of(net), output(net, images)
    sharing = share_kernels(net.train(), weight=weight)
    disturb(sharing)
    optimizer = torch.optim.SGD([p for parent in sharing.parents.values() for p in parent.parameters()], 0.1)
    net.eval()(images).square().sum().backward()
    optimizer.step()
    assert not net.blocks[0].conv2.weight.equal(before["blocks.0.conv2.weight"])

    sharing.undo()
    assert list(net.named_modules()) == list(modules.items())
    assert all(got is parameters[name] for name, got in net.named_parameters())
    assert same(net.state_dict(), before)
    assert output(net, images).equal(expected)
    assert net.blocks[0].conv2.weight.grad is None


def test_undo_keeps_mode_and_what_else_was_trained(net):
    sharing = share_kernels(net.train())
    net.eval()
    with torch.no_grad():
        net.fc.weight.zero_()
    sharing.undo()
    assert not any(module.training for module in net.modules())
    assert net.fc.weight.eq(0).all()


def test_undo_follows_the_dtype_of_the_model(net, images):
    sharing = share_kernels(net)
    net.double()
    sharing.undo()
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert output(net, images.double()).dtype == torch.float64


def test_sharing_again_after_undo(net, images):
    sharing = share_kernels(net)
    expected = output(net, images)
    sharing.undo()
    again = share_kernels(net, **sharing.mapping)
    torch.testing.assert_close(output(net, images), expected)
    again.undo()


def test_undo_twice_is_refused(net):
    sharing = share_kernels(net)
    sharing.undo()
    before = state_of(net)
    with pytest.raises(RuntimeError, match=r"^undo: it has been undone already$"):
        sharing.undo()
    assert same(net.state_dict(), before)


def test_undo_where_nothing_is_shared():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    sharing = share_kernels(model)
    for _ in range(2):
        sharing.undo()
    assert type(model[0]) is nn.Conv2d


def test_undo_refuses_where_somebody_else_replaced_a_layer(net):
    sharing = share_kernels(net)
    net.blocks[1].conv1 = nn.Identity()
    with pytest.raises(RuntimeError, match=r"^undo: layer 'blocks.1.conv1' is no longer the module that share_kernels"):
        sharing.undo()
    assert net.blocks[0].conv1 is sharing.children["blocks.0.conv1"]


def test_undo_refuses_where_a_parent_has_other_parameters(net):
    sharing = share_kernels(net)
    nn.utils.parametrizations.weight_norm(net.blocks[1].conv2)
    with pytest.raises(RuntimeError, match=r"^undo: layer 'blocks.1.conv2' no longer has the parameters that it had$"):
        sharing.undo()
    assert net.blocks[0].conv1 is sharing.children["blocks.0.conv1"]


def test_copies_of_the_model_are_not_undone(net, images):
    sharing = share_kernels(net)
    disturb(sharing)
    twin, plain = copy.deepcopy(net), materialize(net)
    expected = output(net, images)
    sharing.undo()
    assert output(twin, images).equal(expected)
    torch.testing.assert_close(output(plain, images), expected)
    assert set(sharing.children) == {child for children in PAIRS.values() for child in children}
