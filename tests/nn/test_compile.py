"""The layers under torch.compile and torch.export: no graph break, nothing kept, the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.nn import ChildConv2d

pytestmark = pytest.mark.usefixtures("threads")


class Family(nn.Module):
    def __init__(self):
        super().__init__()
        self.parent = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.published = ChildConv2d(self.parent)
        self.dynamic = ChildConv2d(self.parent, filter="dynamic", spatial="dynamic", padding_mode="circular")

    def forward(self, x):
        return self.dynamic(self.parent(F.relu(self.published(x))))


@pytest.fixture
def family():
    torch.compiler.reset()
    return Family()


def inputs(*batches):
    return [torch.randn(batch, 8, 6, 5) for batch in batches]


def assert_same_gradients(compiled, module, input):
    expected, got = (torch.autograd.grad(m(input).square().sum(), module.parameters()) for m in (module, compiled))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_training(family):
    assert_same_gradients(torch.compile(family, fullgraph=True, backend="aot_eager"), family, *inputs(4))


def test_training_with_inductor(family):
    layer = nn.ModuleList([family.published, family.parent])
    layer.forward = family.published.forward
    assert_same_gradients(torch.compile(layer, fullgraph=True), layer, *inputs(4))


def test_eval_with_any_batch(family):
    family.eval()
    compiled = torch.compile(family, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for input in inputs(2, 3, 5):
            torch.testing.assert_close(compiled(input), family(input))


def test_compiled_eval_follows_the_parameters(family):
    family.eval()
    compiled = torch.compile(family, fullgraph=True, backend="aot_eager")
    (input,) = inputs(4)
    with torch.no_grad():
        before = compiled(input)
        family.parent.weight.mul_(1.5)
        torch.testing.assert_close(compiled(input), family(input))
        assert not compiled(input).allclose(before)


def test_export_has_the_shared_weight_once(family):
    family.eval()
    (input,) = inputs(4)
    program = torch.export.export(family, (input,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    assert sum(value.shape == family.parent.weight.shape for value in program.state_dict.values()) == 1
    assert not program.constants
    for other in inputs(2, 7):
        torch.testing.assert_close(program.module()(other), family(other))
