"""materialize: the same function out of torch.nn's own modules, with BatchNorm folded."""

import copy
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kerneldna_ops
from kerneldna_ops.models import create_model
from kerneldna_ops.nn import Adapter, ChildConv2d
from kerneldna_ops.sharing import ModulatedConv2d, materialize, share_kernels
from support.sharing_networks import Net, build, disturb, output, same, state_of

FORMS = [("static", "static"), ("dynamic", "static"), ("static", "dynamic"), ("dynamic", "dynamic"), (None, None)]
ODD = {"padding_mode": "reflect", "groups": 2, "dilation": 2}


def test_is_found_at_the_top():
    assert kerneldna_ops.materialize is materialize


def is_plain(model):
    """Whether nothing of this package is left but the module that holds a child's gates."""
    ours = [m for m in model.modules() if type(m).__module__.startswith("kerneldna_ops")]
    return all(type(module) is ModulatedConv2d for module in ours)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("arguments", [{}, ODD, {"dilation": 2}], ids=["plain", "odd", "dilated"])
def test_function_stays(images, form, arguments):
    net = build(**arguments).double()
    images = images.double()
    disturb(share_kernels(net, filter=form[0], spatial=form[1]))
    before = state_of(net)
    plain = materialize(net)
    assert is_plain(plain)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(module.training for module in plain.modules())
    torch.testing.assert_close(output(plain, images), output(net, images))
    assert same(net.state_dict(), before)
    assert isinstance(net.blocks[0].conv1, ChildConv2d)


def test_batch_of_one_none_and_no_sample(net):
    disturb(share_kernels(net, filter="dynamic", spatial="dynamic"))
    plain = materialize(net)
    for samples in (1, 0):
        images = torch.randn(samples, 3, 9, 9)
        torch.testing.assert_close(output(plain, images), output(net, images))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_untrained_children_become_plain_convolutions(net, images, form):
    """Their attention comes from layers that are zero: it is the same for all samples."""
    share_kernels(net, filter=form[0], spatial=form[1])
    with torch.no_grad():
        net.blocks[0].conv1.adapter.se.fc2.bias.normal_()
        if form[0] == "dynamic":
            net.blocks[0].conv1.adapter.filter_head.bias.normal_()
        if form[1] == "dynamic":
            net.blocks[0].conv1.adapter.spatial_head.bias.normal_()
    plain = materialize(net)
    assert [type(m) for m in plain.modules() if isinstance(m, nn.Conv2d | ModulatedConv2d)] == [nn.Conv2d] * 7
    torch.testing.assert_close(output(plain, images), output(net, images))


def test_published_children_are_materialized_too(images):
    """Without identity=True the gate is no factor around 1."""
    net = build(channels=8, blocks=1)
    net.blocks[0].conv1 = ChildConv2d(net.blocks[0].conv2, reduction=2, bias=True)
    net.eval()
    torch.testing.assert_close(output(materialize(net), images), output(net, images))


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "same", "dilation": (1, 3)},
        {"padding": (3, 1), "stride": (2, 1), "padding_mode": "circular"},
        {"padding": "valid", "padding_mode": "replicate"},
        {"padding": "same", "padding_mode": "reflect"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_a_child_by_itself(arguments):
    parent = nn.Conv2d(6, 4, (2, 3), groups=2, dtype=torch.float64)
    child = ChildConv2d(parent, **arguments, reduction=2, bias=True, filter="dynamic", spatial="dynamic").eval()
    for parameter in child.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 6, 9, 8, dtype=torch.float64)
    plain = materialize(child)
    assert type(plain) is ModulatedConv2d
    torch.testing.assert_close(output(plain, x), output(child, x))
    with torch.no_grad():
        parent.weight.zero_()
    assert output(plain, x).abs().sum() > 1


def another_fc1(se):
    se.fc1 = nn.Linear(6, 3).double()


def another_fc2(se):
    se.fc2 = nn.Linear(3, 6, bias=False).double()


def another_norm(make):
    return lambda se: setattr(se, "bn", make(3).double())


GATES = {
    "fc1 with a bias": another_fc1,
    "fc2 without": another_fc2,
    "LayerNorm": another_norm(nn.LayerNorm),
    "GroupNorm": another_norm(lambda features: nn.GroupNorm(1, features)),
    "SyncBatchNorm": another_norm(nn.SyncBatchNorm),
    "no norm": another_norm(lambda features: nn.Identity()),
    "not affine": another_norm(lambda features: nn.BatchNorm1d(features, affine=False)),
    "norm with a hook": lambda se: se.bn.register_forward_hook(lambda module, args, output: output + 1),
}


@pytest.mark.parametrize("change", GATES.values(), ids=GATES)
def test_gates_of_another_kind(change):
    child = ChildConv2d(nn.Conv2d(6, 4, 3, dtype=torch.float64), hidden=3).eval()
    change(child.adapter.se.eval())
    for parameter in child.eval().parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 6, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(output(materialize(child), x), output(child, x))


def test_half_precision(images):
    net = build().bfloat16()
    disturb(share_kernels(net))
    plain = materialize(net)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    expected = output(copy.deepcopy(net).float(), images)
    error, bound = ((output(model, images.bfloat16()).float() - expected).abs().max() for model in (plain, net))
    assert error <= 2 * bound + 1e-3


class Norms(nn.Module):
    """Pairs of a convolution and a norm that look alike, and of which only the first two may be folded."""

    def __init__(self):
        super().__init__()

        def pair(norm=None):
            return nn.ModuleList([nn.Conv2d(4, 4, 1), norm or nn.BatchNorm2d(4)])

        self.bare, self.affineless = pair(), pair(nn.BatchNorm2d(4, affine=False))
        self.batch_statistics = pair(nn.BatchNorm2d(4, track_running_stats=False))
        self.hooked, self.output_used, self.norm_twice, self.conv_twice, self.weight_read = (pair() for _ in range(5))
        self.hooked[1].register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x):
        for conv, norm in (self.bare, self.affineless, self.batch_statistics, self.hooked):
            x = norm(conv(x))
        y = self.output_used[0](x)
        x = self.output_used[1](y) + y
        x = self.norm_twice[1](self.norm_twice[1](self.norm_twice[0](x)))
        x = self.conv_twice[1](self.conv_twice[0](x)) + self.conv_twice[0](x)
        return self.weight_read[1](self.weight_read[0](x)) + self.weight_read[0].weight.sum()


def statistics_at_random(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def test_only_norms_that_nothing_else_touches_are_folded():
    model = statistics_at_random(Norms())
    x = torch.randn(3, 4, 5, 5)
    plain = materialize(model)
    torch.testing.assert_close(output(plain, x), output(model, x))
    folded = {name for name, module in plain.named_children() if isinstance(module[1], nn.Identity)}
    assert folded == {"bare", "affineless"}


class Untraceable(nn.Module):
    """A forward that depends on values around a block that does not, and pairs that it takes apart."""

    def __init__(self):
        super().__init__()
        self.net = build(blocks=1)
        self.pair = nn.Sequential(nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5))

    def forward(self, x):
        self.seen = x
        y = self.net(x)[:, :, None, None]
        if y.sum() > 1e9:
            return self.pair(y)
        return self.pair[1](self.pair[0](y) + y)


def test_what_cannot_be_followed_as_a_whole_is_looked_at_in_parts(images):
    model = statistics_at_random(Untraceable())
    share_kernels(model.net)
    plain = materialize(model)
    left = [name for name, module in plain.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["pair.1"]
    assert not hasattr(plain, "seen")
    torch.testing.assert_close(output(plain, images), output(model, images))


class Parts(nn.Module):
    """Pairs of a convolution and a norm that forward calls together. All but the last are called by themselves too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.listed = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.kept = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.everything(self.norm(self.conv(x)))

    def everything(self, x):
        return self.kept(self.listed(x))

    def features(self, x):
        return self.conv(x)

    def normed(self, x):
        return self.listed[1](x)

    def channels(self):
        return self.kept[0].out_channels

    def forward_fuse(self, x):
        return self.kept[0](x)


def test_methods_that_use_one_layer_of_a_pair_keep_it():
    model = statistics_at_random(Parts())
    plain = materialize(model)
    x = torch.randn(3, 4, 5, 5)
    for name in ("forward", "features", "normed"):
        with torch.no_grad():
            torch.testing.assert_close(getattr(plain, name)(x), getattr(model, name)(x))
    left = [name for name, module in plain.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["norm", "listed.1"]


def conv_twice(net, x):
    y = net.stem(x)
    return net.fc((net.bn(y) + y).mean((2, 3))) + net.stem(x).mean()


@pytest.mark.parametrize("form", ["model", "part"])
def test_a_forward_put_on_an_instance_is_what_counts(images, form):
    net = build(blocks=1)
    share_kernels(net)
    net.forward = types.MethodType(conv_twice, net)
    model = net if form == "model" else nn.Sequential(net, nn.Identity()).eval()
    torch.testing.assert_close(output(materialize(model), images), output(model, images))


def test_norms_that_are_synchronized_are_folded(net, images):
    disturb(share_kernels(net))
    expected = output(net, images)
    plain = materialize(nn.SyncBatchNorm.convert_sync_batchnorm(net))
    assert not any("BatchNorm" in type(module).__name__ for module in plain.modules())
    torch.testing.assert_close(output(plain, images), expected)


def test_layers_used_in_two_places_stay_one(images):
    net = build(blocks=1)
    share_kernels(net)
    net.blocks.append(net.blocks[0])
    plain = materialize(net)
    assert plain.blocks[0] is plain.blocks[1]
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.blocks.modules())
    torch.testing.assert_close(output(plain, images), output(net, images))


class Part(nn.Module):
    def __init__(self, conv, norm):
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x):
        return self.norm(self.conv(x))


class TwoParts(nn.Module):
    """Parts with one convolution between them, and a forward that cannot be followed, so that each is seen alone."""

    def __init__(self, conv):
        super().__init__()
        self.first, self.second = Part(conv, nn.BatchNorm2d(4)), Part(conv, nn.ReLU())

    def forward(self, x):
        return self.first(x) if x.sum() > 1e9 else self.first(x) + self.second(x)


def test_a_layer_that_parts_have_in_common_is_left_alone():
    child = ChildConv2d(nn.Conv2d(4, 4, 1))
    model = statistics_at_random(TwoParts(child))
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(output(materialize(model), x), output(model, x))


def test_a_model_without_children_is_folded_too(images):
    net = build()
    plain = materialize(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    torch.testing.assert_close(output(plain, images), output(net, images))


@pytest.mark.parametrize(
    ("name", "dynamic"), [("kerneldna_resnet18", True), ("kerneldna_mobilenet_v2_050", False)], ids=str
)
def test_networks_of_this_package(name, dynamic):
    """They call a convolution and its norm together, by conv_norm."""
    model = create_model(name, num_classes=10, dynamic=dynamic).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        model.train()(images)
        for module in model.modules():
            if isinstance(module, Adapter):
                for parameter in module.parameters():
                    parameter.add_(torch.randn_like(parameter) / 10)
    model.eval()
    plain = materialize(model)
    assert not any(isinstance(m, ChildConv2d | nn.BatchNorm1d | nn.BatchNorm2d) for m in plain.modules())
    torch.testing.assert_close(output(plain, images), output(model, images))


def in_training(net):
    net.blocks[1].train()


def hooked_child(net):
    net.blocks[0].conv1.register_forward_hook(lambda *args: None)


def hooked_part(net):
    net.blocks[0].conv1.adapter.se.fc1.register_forward_hook(lambda *args: None)


class Louder(ChildConv2d):
    def forward(self, input):
        return 2 * F.relu(super().forward(input))


def other_child(net):
    net.blocks[0].conv1 = Louder(net.blocks[0].conv2).eval()


KIND = "has hooks or is not the kind that ChildConv2d makes: plain layers would not do the same"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (nn.Module.train, "model must be in eval mode, call model.eval() first: it is in training mode"),
        (in_training, "model must be in eval mode, call model.eval() first: layer 'blocks.1' is in training mode"),
        (hooked_child, f"layer 'blocks.0.conv1', a ChildConv2d, {KIND}"),
        (hooked_part, f"layer 'blocks.0.conv1.adapter.se.fc1', a Linear, {KIND}"),
        (other_child, f"layer 'blocks.0.conv1', a Louder, {KIND}"),
        (nn.DataParallel, "model must be a network as it was built, got one that is wrapped in DataParallel"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refusals(net, change, sentence):
    share_kernels(net)
    changed = change(net) or net
    with pytest.raises(ValueError, match=r"^materialize: ") as error:
        materialize(changed)
    assert str(error.value) == f"materialize: {sentence}"


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"^materialize: model must be a torch.nn.Module, got type$"):
        materialize(Net)
