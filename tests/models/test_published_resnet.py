"""The authors' ResNet checkpoints: loaded by name, the same logits and gradients, and their names given back."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kerneldna_ops.models import kerneldna_resnet18, kerneldna_resnet50, to_published
from support.published_resnet import resnet18, resnet50

pytestmark = pytest.mark.usefixtures("threads")

CLASSES = 6
OTHER_NETWORK = "kerneldna_resnet18: the state_dict is incomplete or of another network: "
NETWORKS = {"resnet18": (resnet18, kerneldna_resnet18), "resnet50": (resnet50, kerneldna_resnet50)}


def randomise(model):
    """Values of a trained network's size for all that starts at zero or one."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "attn" in name or name.endswith((".bias", "running_mean")):
                value.normal_(0, 0.3)
            elif value.dim() == 1:
                value.uniform_(0.5, 1.5)
            elif name.endswith("num_batches_tracked"):
                value.random_(100)
    return model


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """The authors' network and ours with its weights, in float64."""
    theirs, ours = NETWORKS[request.param]
    torch.manual_seed(3)
    theirs = randomise(theirs(CLASSES)).double()
    ours = ours(num_classes=CLASSES).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def images():
    return torch.randn(3, 3, 64, 41, dtype=torch.float64)


@pytest.mark.parametrize("folded", [True, False])
def test_logits_in_eval_mode(pair, folded):
    theirs, ours = (model.eval() for model in pair)
    x = images()
    with torch.set_grad_enabled(not folded):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_training_step(pair):
    """Logits, gradients, those of the shared kernels among them, and statistics, all under the authors' names."""
    theirs, ours = copy.deepcopy(pair)
    x = images()
    logits = [model.train()(x) for model in (theirs, ours)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-10, atol=1e-10)
    for scores in logits:
        F.cross_entropy(scores, torch.tensor([0, 3, 5])).backward()
    torch.testing.assert_close(to_published(ours), dict(theirs.state_dict()), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(parameter.grad)
    gradients = to_published(ours)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_round_trip_is_exact(pair):
    theirs, ours = pair
    state, expected = to_published(ours), theirs.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name], value), name


def test_every_name_of_theirs_is_told_from_ours(pair):
    _, ours = pair
    names = ours.published
    for name in ours.state_dict():
        assert not any(name.startswith(f"{module}.") for module in names.modules), name
    assert len(set(names.modules.values())) == len(names.modules)


def test_network_inside_another_module_loads_both(pair):
    theirs, ours = pair
    for state in (theirs.state_dict(), ours.state_dict()):
        outer = nn.Sequential(copy.deepcopy(ours))
        with torch.no_grad():
            for parameter in outer.parameters():
                parameter.zero_()
        outer.load_state_dict({f"0.{name}": value for name, value in state.items()}, strict=True)
        torch.testing.assert_close(outer[0].state_dict(), ours.state_dict(), rtol=0, atol=0)


def test_loading_does_not_change_the_state_dict(pair):
    theirs, ours = pair
    state = theirs.state_dict()
    names = list(state)
    ours.load_state_dict(state)
    assert list(state) == names


@pytest.fixture(scope="module")
def model():
    return kerneldna_resnet18(num_classes=CLASSES)


def published_state():
    """The authors' names of ResNet-18 with nothing behind them."""
    with torch.device("meta"):
        return dict(resnet18(CLASSES).state_dict())


def other_network():
    with torch.device("meta"):
        return resnet50(CLASSES).state_dict()


def other_classes():
    with torch.device("meta"):
        return resnet18(10).state_dict()


def other_number_of_children():
    return {**published_state(), "layer4.static_filter_attn": torch.zeros(2, 512, 1, 1, 1)}


def no_tensor():
    return {**published_state(), "layer3.bns.0.bias": [0.0] * 256}


def attention_of_other_form():
    return {**published_state(), "layer4.static_spatial_attn": torch.zeros(3, 2, 1, 3, 3)}


def twice():
    return {**published_state(), "layer3.1.conv2.weight": torch.zeros(256, 256, 3, 3)}


def other_shape():
    return {**published_state(), "bn1.weight": torch.zeros(32)}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            other_network,
            OTHER_NETWORK + r"\d+ entries are missing \(the first is layer3\.0\.conv1\.weight\),"
            r" \d+ are unknown \(the first is layer1\.0\.conv3\.weight\)",
        ),
        (
            other_classes,
            r"kerneldna_resnet18: fc\.weight has shape \[10, 512\] in the state_dict and \[6, 512\] in the network,"
            " build it with num_classes=10",
        ),
        (
            other_number_of_children,
            OTHER_NETWORK + r"3 entries are missing \(the first is layer4\.0\.conv2\.adapter\.filter_attention\),"
            r" 1 are unknown \(the first is layer4\.static_filter_attn\)",
        ),
        (
            attention_of_other_form,
            r"kerneldna_resnet18: layer4\.0\.conv2\.adapter\.spatial_attention has shape \[6, 3\] in the state_dict and"
            r" \[3, 3\] in the network",
        ),
        (no_tensor, r"kerneldna_resnet18: layer3\.0\.bn2\.bias must be a tensor in the state_dict, got list"),
        (twice, r"the state_dict has layer3\.1\.conv2\.weight twice, the other time as layer3\.conv2\.weight"),
        (other_shape, r"kerneldna_resnet18: bn1\.weight has shape \[32\] in the state_dict and \[64\] in the network"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_changes_nothing(model, state, sentence):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=f"^{sentence}$"):
        model.load_state_dict(state())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_no_state_dict(model):
    with pytest.raises(
        TypeError, match=r"^kerneldna_resnet18: state_dict must be a mapping from .* to tensors, got list$"
    ):
        model.load_state_dict([1, 2])


def test_part_of_a_state_dict_loads_if_not_strict(model):
    twin = copy.deepcopy(model)
    bias = torch.rand(256)
    left = twin.load_state_dict({"layer3.bns.0.bias": bias, "head.weight": bias}, strict=False)
    assert twin.layer3[0].bn2.bias.equal(bias)
    assert left.unexpected_keys == ["head.weight"]
    assert "fc.weight" in left.missing_keys
    with pytest.raises(
        RuntimeError, match=r"^kerneldna_resnet18: fc\.bias has shape \[7\] in the state_dict and \[6\]"
    ):
        twin.load_state_dict({"layer3.bns.0.bias": bias + 1, "fc.bias": torch.zeros(7)}, strict=False)
    assert twin.layer3[0].bn2.bias.equal(bias)


def test_checkpoint_of_before_batchnorm_counted_loads(model):
    state = {name: value for name, value in model.state_dict().items() if "num_batches_tracked" not in name}
    copy.deepcopy(model).load_state_dict(state, strict=True)


def test_dynamic_variant_has_no_published_names():
    with torch.device("meta"):
        dynamic = kerneldna_resnet18(dynamic=True)
    for model, name in ((dynamic, "kerneldna_resnet18"), (nn.Linear(1, 1), "Linear")):
        with pytest.raises(ValueError, match=rf"^to_published: the authors have not published this form of {name}$"):
            to_published(model)
    with pytest.raises(RuntimeError, match=rf"^{OTHER_NETWORK}"):
        dynamic.load_state_dict(published_state())


def test_network_that_is_not_as_published_any_more(model):
    changed = copy.deepcopy(model)
    changed.layer3[0].conv2 = nn.Conv2d(256, 256, 3, padding=1, bias=False)
    sentence = (
        r"kerneldna_resnet18 is not as published any more, it has no 'layer3\.0\.conv2\.adapter\.filter_attention'"
    )
    with pytest.raises(ValueError, match=rf"^to_published: {sentence}$"):
        to_published(changed)
