"""What share_kernels does not understand: left alone with a reason, refused with it when it is named."""

import copy
import functools
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import weight_norm as old_weight_norm

from kerneldna_ops.nn import ChildConv2d
from kerneldna_ops.sharing import share_kernels
from support.sharing_networks import Net, same, state_of

LAYER = "blocks.1.conv1"


class StdConv2d(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def replaced_by(module):
    def change(net):
        net.blocks[1].conv1 = module

    return change


def quantized(net):
    net.blocks[1].conv1 = torch.ao.nn.quantized.Conv2d(8, 8, 3)


def a_child(net):
    net.blocks[1].conv1 = ChildConv2d(net.blocks[0].conv1)


def a_parent(net):
    net.child = ChildConv2d(net.blocks[1].conv1)


def parametrized(net):
    parametrizations.weight_norm(net.blocks[1].conv1)


def weight_normed(net):
    old_weight_norm(net.blocks[1].conv1)


def spectrally_normed(net):
    nn.utils.spectral_norm(net.blocks[1].conv1)


def pruned(net):
    prune.l1_unstructured(net.blocks[1].conv1, "weight", 0.5)


def hooked(net):
    net.blocks[1].conv1.register_forward_hook(lambda *args: None)


def hooked_weight(net):
    net.blocks[1].conv1.weight.register_hook(lambda grad: grad)


def other_forward(net):
    conv = net.blocks[1].conv1
    conv.forward = lambda x: F.relu(nn.Conv2d.forward(conv, x))


def registered_twice(net):
    net.again = net.blocks[1].conv1


def weight_tied(net):
    net.blocks[2].conv1.weight = net.blocks[1].conv1.weight


def memory_tied(net):
    net.blocks[2].conv1.weight.data = net.blocks[1].conv1.weight.data


def in_a_list(net):
    net.to_visit = [net.blocks[1].conv1]


def in_a_set(net):
    net.to_visit = {net.blocks[1].conv1}


def by_its_method(net):
    net.first = net.blocks[1].conv1.forward


def in_nested_containers(net):
    net.steps = [{"first": (net.stem, net.bn)}, {"then": [(net.blocks[1].conv1, net.blocks[1].bn1)]}]


def by_a_closure(net):
    conv = net.blocks[1].conv1
    net.first = lambda x: conv(x)


def by_a_default(net):
    net.first = lambda x, conv=net.blocks[1].conv1: conv(x)


def by_a_global(net):
    global SEEN
    SEEN = net.blocks[1].conv1
    net.first = lambda x: SEEN(x)


def by_a_partial(net):
    net.first = functools.partial(lambda conv, x: conv(x), net.blocks[1].conv1)


def by_an_object(net):
    net.first = SimpleNamespace(conv=net.blocks[1].conv1)


def by_an_unregistered_module(net):
    net.first = [nn.Sequential(net.blocks[1].conv1)]


def by_a_weak_reference(net):
    net.first = weakref.ref(net.blocks[1].conv1)


def compiled(net):
    net.blocks[1].conv1.compile()


def of_integers(net):
    net.blocks[1].conv1.weight = nn.Parameter(torch.zeros(8, 8, 3, 3, dtype=torch.int8), requires_grad=False)


def in_a_graph(net):
    net.blocks[1] = torch.fx.symbolic_trace(net.blocks[1])


def in_data_parallel(net):
    net.blocks = nn.ModuleDict({str(n): block for n, block in enumerate(net.blocks)})
    net.blocks["1"] = nn.DataParallel(net.blocks["1"])


OBSTACLES = {
    a_child: "is a child already",
    a_parent: "is the parent of child already",
    replaced_by(StdConv2d(8, 8, 3)): "is a test_sharing_refusals.StdConv2d, not exactly a torch.nn.Conv2d",
    replaced_by(nn.ConvTranspose2d(8, 8, 3)): (
        "is a torch.nn.modules.conv.ConvTranspose2d, not exactly a torch.nn.Conv2d"
    ),
    replaced_by(nn.LazyConv2d(8, 3)): "is lazy and has no shape yet: run the model once first",
    quantized: ("is a torch.ao.nn.quantized.modules.conv.Conv2d, not exactly a torch.nn.Conv2d"),
    parametrized: "has parametrizations in place of a weight: weight norm, spectral norm or pruning",
    weight_normed: "has weight_g, weight_v in place of a weight: weight norm, spectral norm or pruning",
    spectrally_normed: (
        "has weight_orig, weight_u, weight_v in place of a weight: weight norm, spectral norm or pruning"
    ),
    pruned: "has weight_mask, weight_orig in place of a weight: weight norm, spectral norm or pruning",
    hooked: "has hooks",
    hooked_weight: "has a weight with hooks",
    other_forward: "has a forward of its own",
    registered_twice: "is registered more than once, as blocks.1.conv1 and again",
    weight_tied: "has a weight that is registered more than once, as blocks.1.conv1.weight and blocks.2.conv1.weight",
    memory_tied: "has a weight that is registered more than once, as blocks.1.conv1.weight and blocks.2.conv1.weight",
    in_a_list: "is also referred to as to_visit",
    in_a_set: "is also referred to as to_visit",
    by_its_method: "is also referred to as first",
    in_nested_containers: "is also referred to as steps",
    by_a_closure: "is also referred to as first",
    by_a_default: "is also referred to as first",
    by_a_global: "is also referred to as first",
    by_a_partial: "is also referred to as first",
    by_an_object: "is also referred to as first",
    by_an_unregistered_module: "is also referred to as first",
    by_a_weak_reference: "is also referred to as first",
    compiled: "is compiled by torch.compile",
    of_integers: "has a weight of int8, which has no dynamic convolution",
    in_a_graph: "is part of 'blocks.1', which is a torch.fx.GraphModule",
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("obstacle", "reason"), OBSTACLES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_not_understood(net, obstacle, reason):
    obstacle(net)
    modules = dict(net.named_modules())
    with pytest.raises(ValueError, match=r"^share_kernels: layer") as error:
        share_kernels(net, {LAYER: ["blocks.0.conv2"]})
    assert str(error.value) == f"share_kernels: layer {LAYER!r} {reason}"
    with pytest.raises(ValueError, match=r"^share_kernels: layer") as error:
        share_kernels(net, {"blocks.0.conv2": [LAYER]})
    assert str(error.value) == f"share_kernels: layer {LAYER!r} {reason}"
    assert dict(net.named_modules()) == modules

    sharing = share_kernels(net)
    assert {layer.name: layer.reason for layer in sharing.report.layers}[LAYER] == reason
    assert net.get_submodule(LAYER) is modules[LAYER]
    assert sharing.children  # the others are shared all the same
    assert LAYER not in {*sharing.children, *sharing.parents}


def test_a_part_that_is_wrapped(net):
    in_data_parallel(net)
    reasons = {layer.name: layer.reason for layer in share_kernels(net).report.layers}
    assert reasons["blocks.1.module.conv1"] == "is part of 'blocks.1', which is wrapped in DataParallel"


def standardised(x, conv):
    return F.conv2d(x, conv.weight - conv.weight.mean())


class FromWeights(nn.Module):
    """Its second half runs on the first half's weights; a list and a branch are read by methods nobody calls here."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(4, 4, 3)
        self.listed = nn.ModuleList([nn.Conv2d(4, 4, 3)])
        self.branch = nn.Sequential()
        self.branch.conv = nn.Conv2d(4, 4, 3)
        self.standardised = nn.Conv2d(4, 4, 3)
        self.free = nn.Conv2d(4, 4, 3)
        self.last = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 4)
        nn.init.zeros_(self.free.weight)

    def forward(self, x):
        x = F.conv_transpose2d(self.encoder(x), self.encoder.weight)
        x = standardised(x, conv=self.standardised)
        return F.linear(self.last(self.free(x)).mean((2, 3)), self.fc.weight)

    def init_weights(self):
        nn.init.zeros_(self.last.weight)

    @property
    def norm(self):
        return self.listed[0].weight.norm()

    @staticmethod
    def fuse(branch):
        return branch.conv.weight


def test_layers_reached_through_the_network_are_shared(net, images):
    """What looks them up when it runs finds the children."""
    net.first = lambda x: net.blocks[0].conv1(x)
    blocks = net.blocks
    net.second = lambda x: blocks[0].conv1(x)
    net.method = net.forward
    child = share_kernels(net).children["blocks.0.conv1"]
    x = torch.randn(2, 8, 5, 5)
    assert net.first(x).equal(child(x))
    assert net.second(x).equal(child(x))


def test_weights_that_code_reads():
    model = FromWeights()
    reasons = {layer.name: layer.reason for layer in share_kernels(model, {"last": ["free"]}).report.layers}
    assert reasons == {
        "encoder": "has a weight that FromWeights.forward reads, which a child has not",
        "listed.0": "has a weight that FromWeights.norm reads, which a child has not",
        "branch.conv": "has a weight that FromWeights.fuse reads, which a child has not",
        "standardised": "has a weight that FromWeights.forward, by standardised, reads, which a child has not",
        "free": None,
        "last": None,
    }


@pytest.mark.parametrize(
    ("wrap", "what"),
    [
        (torch.jit.script, "a torch.jit.ScriptModule"),
        (torch.fx.symbolic_trace, "a torch.fx.GraphModule"),
        (torch.compile, "compiled by torch.compile"),
        (nn.DataParallel, "wrapped in DataParallel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_models_out_of_reach(net, wrap, what):
    with pytest.raises(ValueError, match=r"^share_kernels: model must") as error:
        share_kernels(wrap(net))
    assert str(error.value) == f"share_kernels: model must be a network as it was built, got one that is {what}"


def test_model_compiled_in_place(net):
    net.compile()
    with pytest.raises(ValueError, match=r"got one that is compiled by torch\.compile$"):
        share_kernels(net)


@pytest.mark.parametrize("name", ["FSDPModule", "FullyShardedDataParallel", "DistributedDataParallel"])
def test_model_of_several_processes(net, name):
    """By name of a class of torch: to make real ones takes several processes."""
    wrapper = type(name, (), {"__module__": "torch.distributed.anywhere"})
    net.__class__ = type("Wrapped", (wrapper, Net), {})
    with pytest.raises(ValueError, match=r"got one that is (sharded by FSDP|wrapped in DistributedDataParallel)$"):
        share_kernels(net)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"model": torch.relu}, TypeError, "model must be a torch.nn.Module, got builtin_function_or_method"),
        (
            {"groups": {"blocks.0.conv3": ["stem"]}},
            ValueError,
            "Net has no layer 'blocks.0.conv3', did you mean 'blocks.0.conv2' or 'blocks.0.conv1' or 'blocks.2.conv2'?",
        ),
        ({"groups": {7: ["stem"]}}, ValueError, "Net has no layer 7"),
        (
            {"groups": {"fc": ["stem"]}},
            ValueError,
            "layer 'fc' is a torch.nn.modules.linear.Linear, not exactly a torch.nn.Conv2d",
        ),
        ({"groups": {"": ["stem"]}}, ValueError, "layer '' is the model itself, which has no place to be put back to"),
        (
            {"groups": {"blocks.0.conv1": ["stem"]}},
            ValueError,
            "layer 'stem' ([8, 3, 3, 3], groups=1, float32, cpu) cannot be a child of 'blocks.0.conv1' ([8, 8, 3, 3],"
            " groups=1, float32, cpu): their kernels differ",
        ),
        ({"groups": {LAYER: [LAYER]}}, ValueError, f"layer '{LAYER}' is named twice in groups"),
        (
            {"groups": {LAYER: ["blocks.0.conv1"], "blocks.0.conv2": ["blocks.0.conv1"]}},
            ValueError,
            "layer 'blocks.0.conv1' is named twice in groups",
        ),
        ({"groups": {LAYER: []}}, ValueError, f"groups['{LAYER}'] must be a list of the names of children, got []"),
        (
            {"groups": {LAYER: "stem"}},
            ValueError,
            f"groups['{LAYER}'] must be a list of the names of children, got 'stem'",
        ),
        ({"groups": 3}, TypeError, "groups must be 'position', 'cka' or {parent: [child, ...]}, got int"),
        ({"groups": "shape"}, ValueError, "groups must be 'position', 'cka' or {parent: [child, ...]}, got 'shape'"),
        ({"groups": "cka"}, ValueError, "groups='cka' needs batches of inputs, got none"),
        ({"weight": "best"}, ValueError, "weight must be 'parent', 'mean' or 'measured', got 'best'"),
        ({"weight": "measured"}, ValueError, "weight='measured' needs batches of inputs, got none"),
        (
            {"weight": "measured", "batches": torch.zeros(2, 3, 8, 8)},
            ValueError,
            "weight='measured' needs batches of inputs, got one tensor (for one batch, [tensor])",
        ),
        ({"weight": "measured", "batches": []}, ValueError, "weight='measured' needs at least one batch, got none"),
        ({"batches": [torch.zeros(4, 3, 8, 8)]}, ValueError, "batches are for groups='cka' and weight='measured' only"),
        ({"loss": len}, ValueError, "loss is for weight='measured' only, got weight='parent'"),
        (
            {"loss": 3, "weight": "measured"},
            TypeError,
            "loss must be a function of (model, batch), got int",
        ),
        ({"filter": "none"}, ValueError, "filter must be 'static', 'dynamic' or None, got 'none'"),
        ({"spatial": 1}, ValueError, "spatial must be 'static', 'dynamic' or None, got 1"),
        ({"reduction": 0}, ValueError, "reduction must be an int of at least 1, got 0"),
        ({"reduction": 4.0}, ValueError, "reduction must be an int of at least 1, got 4.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments(net, arguments, error, sentence):
    before, modules = state_of(net), list(net.named_modules())
    with pytest.raises(error) as raised:
        share_kernels(**{"model": net, **arguments})
    assert str(raised.value) == f"share_kernels: {sentence}"
    assert list(net.named_modules()) == modules
    assert same(net.state_dict(), before)


def test_kernels_of_other_dtype_or_groups_differ():
    for other in (nn.Conv2d(8, 8, 3, dtype=torch.float64), nn.Conv2d(8, 8, 3, device="meta")):
        model = nn.Sequential(nn.Conv2d(8, 8, 3), other)
        assert not share_kernels(copy.deepcopy(model)).children
        with pytest.raises(ValueError, match=r"their kernels differ$"):
            share_kernels(model, {"0": ["1"]})
    # The weights of these two have the same shape.
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(4, 8, 3))
    with pytest.raises(ValueError, match=r"groups=1, .*groups=2, .*their kernels differ$"):
        share_kernels(model, {"0": ["1"]})
