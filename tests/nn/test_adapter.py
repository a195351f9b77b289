"""Adapter: which attentions it gives, that it starts as the identity, and that everything in it learns."""

import numpy
import pytest
import torch

from kerneldna_ops.nn import Adapter
from support.plain_layers import randomise

pytestmark = pytest.mark.usefixtures("threads")

CHOICES = ("static", "dynamic", None)
FILTER = pytest.mark.parametrize("filter", CHOICES)
SPATIAL = pytest.mark.parametrize("spatial", CHOICES)


@FILTER
@SPATIAL
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_shapes_and_identity_at_the_start(filter, spatial, mode, dtype):
    adapter = Adapter(8, 12, (3, 2), filter=filter, spatial=spatial, dtype=dtype).train(mode == "train")
    c, f, s = adapter(torch.randn(5, 8, 4, 3, dtype=dtype))
    assert c.shape == (5, 8)
    assert ((c > 0) & (c < 1)).all()
    for choice, attention, shape in ((filter, f, (12,)), (spatial, s, (3, 2))):
        if choice is None:
            assert attention is None
        else:
            assert attention.shape == (shape if choice == "static" else (5, *shape))
            assert attention.dtype == dtype
            assert attention.eq(1).all()


@FILTER
@SPATIAL
def test_parameters(filter, spatial):
    """C_in = 8, R = 2: 16 + 4 + 16 + 8 for squeeze-and-excitation, and what each choice adds."""
    adapter = Adapter(8, 12, 3, filter=filter, spatial=spatial)
    added = {"static": lambda size: size, "dynamic": lambda size: 3 * size, None: lambda size: 0}
    assert sum(p.numel() for p in adapter.parameters()) == 44 + added[filter](12) + added[spatial](9)
    names = set(adapter.state_dict())
    assert ("filter_attention" in names) == (filter == "static")
    assert ("spatial_head.weight" in names) == (spatial == "dynamic")


def test_static_attention_is_one_plus_the_parameter():
    adapter = randomise(Adapter(8, 12, 3))
    _, f, s = adapter(torch.randn(2, 8, 4, 4))
    assert f.equal(1 + adapter.filter_attention)
    assert s.equal(1 + adapter.spatial_attention)


def test_dynamic_attention_differs_between_samples_and_stays_between_0_and_2():
    adapter = randomise(Adapter(8, 12, 3, filter="dynamic", spatial="dynamic"))
    _, f, s = adapter(torch.randn(6, 8, 4, 4) * 5)
    for attention in (f, s):
        assert ((attention > 0) & (attention < 2)).all()
        assert attention.var(0).gt(0).all()


@FILTER
@SPATIAL
def test_every_parameter_learns_from_the_first_step_on(filter, spatial):
    adapter = Adapter(8, 12, 3, filter=filter, spatial=spatial)
    factors = adapter(torch.randn(5, 8, 4, 3))
    sum((factor * torch.randn_like(factor)).sum() for factor in factors if factor is not None).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())


@pytest.mark.parametrize("name", ["filter", "spatial"])
def test_bad_choice(name):
    with pytest.raises(ValueError, match=f"^Adapter: {name} must be 'static', 'dynamic' or None, got 'sometimes'$"):
        Adapter(8, 12, 3, **{name: "sometimes"})


def test_repr_names_the_choices():
    assert "filter='dynamic', spatial=None" in repr(Adapter(8, 12, 3, filter="dynamic", spatial=None))


@pytest.mark.parametrize(("filter", "spatial"), [("static", "static"), ("dynamic", "dynamic"), (None, None)])
def test_an_identity_is_one_and_learns(filter, spatial):
    adapter = Adapter(8, 6, 3, filter=filter, spatial=spatial, identity=True)
    input = torch.randn(4, 8, 5, 5)
    for mode in (True, False):
        for attention in adapter.train(mode)(input):
            assert attention is None or torch.equal(attention, torch.ones_like(attention))
    c, _, _ = adapter.train()(input)
    (c * torch.randn_like(c)).sum().backward()
    assert adapter.se.fc2.weight.grad.abs().sum() > 0
    adapter.eval()
    torch.nn.init.normal_(adapter.se.fc2.weight)
    with torch.no_grad():
        torch.testing.assert_close(adapter(input)[0], 2 * adapter.se(input))
    adapter.reset_parameters()
    assert torch.equal(adapter(input)[0], torch.ones(4, 8))


BAD = [
    ({"identity": "x"}, "Adapter: identity must be True or False, got 'x'"),
    ({"reduction": 1.5}, "SqueezeExcite: reduction must be an int, got 1.5"),
    ({"reduction": None}, "SqueezeExcite: reduction must be an int, got None"),
    ({"reduction": True}, "SqueezeExcite: reduction must be an int, got True"),
    ({"hidden": 1.5}, r"SqueezeExcite: hidden \(else channels // reduction\) must be an int, got 1.5"),
    ({"hidden": numpy.ones(1)}, r"SqueezeExcite: hidden \(else .*\) must be an int, got array\(\[1.\]\)"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_bad_arguments(options, sentence):
    with pytest.raises(TypeError, match=f"^{sentence}$"):
        Adapter(8, 12, 3, **options)
