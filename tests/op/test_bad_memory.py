"""Tensors that are no array of elements in memory get one sentence too: of another layout, or with a storage freed."""

import pytest
import torch
from test_bad_input import GOOD, good, ones, whole
from torch import Tensor

from kerneldna_ops import use_backend
from kerneldna_ops.call import TENSORS
from kerneldna_ops.functional import conv1d, conv2d, conv_transpose2d, modulated_conv2d
from kerneldna_ops.nn import AdaptiveConv2DMod, CondConv2d, DynamicConv2d, ODConv2d
from support.devices import skip_unless_it_runs

train = torch.ops.kerneldna._squeeze_excite_training
train_backward = torch.ops.kerneldna._squeeze_excite_training_backward

LAYOUTS = {
    "sparse": (Tensor.to_sparse, "layout torch.sparse_coo"),
    "mkldnn": (Tensor.to_mkldnn, "layout torch._mkldnn"),
    "nested": (lambda tensor: torch.nested.nested_tensor(list(tensor)), "a nested one"),
}
GATE = {
    "input": ones(2, 6, 5, 4),
    "fc1_weight": ones(3, 6),
    "fc1_bias": ones(3),
    "fc2_weight": ones(6, 3),
    "fc2_bias": ones(6),
}
MODULATED = {"x": ones(2, 6, 5, 4), "weight": ones(4, 6, 3, 2), "styles": ones(2, 6), "input_gain": ones(2, 6)}


def each_in_each_layout(tensors):
    """(layout, name) but for nested tensors of one dimension, which there are not."""
    every = [
        (layout, name)
        for layout in LAYOUTS
        for name, tensor in tensors.items()
        if tensor.dim() > 1 or layout != "nested"
    ]
    mark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    return lambda test: mark(pytest.mark.parametrize(("layout", "name"), every)(test))


def replaced(tensors, layout, name):
    return {**tensors, name: LAYOUTS[layout][0](tensors[name])}


@each_in_each_layout({name: getattr(good(name), name) for name in TENSORS})
def test_layouts_of_memory_are_refused(layout, name):
    call = good(name)
    call = call._replace(**replaced(call._asdict(), layout, name))
    sentence = f"{name} must be a strided tensor, got {LAYOUTS[layout][1]}"
    with pytest.raises(TypeError, match=whole("conv2d", sentence)):
        conv2d(**call._asdict())
    with pytest.raises(RuntimeError, match=whole("kerneldna::conv", sentence)):
        torch.ops.kerneldna.conv(*call)
    with pytest.raises(RuntimeError, match=whole("kerneldna::conv_backward", sentence)):
        torch.ops.kerneldna.conv_backward(ones(2, 4, 3, 3), *call, [True] * 6)


@each_in_each_layout(GATE)
def test_layouts_of_memory_are_refused_by_squeeze_excite(layout, name):
    sentence = f"{name} must be a strided tensor, got {LAYOUTS[layout][1]}"
    with pytest.raises(RuntimeError, match=whole("kerneldna::squeeze_excite", sentence)):
        torch.ops.kerneldna.squeeze_excite(**replaced(GATE, layout, name))


@each_in_each_layout(MODULATED)
def test_layouts_of_memory_are_refused_by_modulated_conv2d(layout, name):
    sentence = f"{name} must be a strided tensor, got {LAYOUTS[layout][1]}"
    with pytest.raises(TypeError, match=whole("modulated_conv2d", sentence)):
        modulated_conv2d(**replaced(MODULATED, layout, name))


X, C, A, KERNELS, BIASES = ones(2, 6, 5, 4), ones(2, 6), ones(2, 3), ones(3, 6, 6, 3, 2), ones(3, 6)
# (what it is about, the tensor, a call with it) of what the functions prepare before the op sees it
PREPARED = [
    ("conv2d: bias", BIASES, lambda t: conv2d(X, KERNELS, t, kernel_attention=A)),
    ("conv2d: kernel_attention", A, lambda t: conv2d(X, KERNELS, BIASES, kernel_attention=t)),
    ("conv2d: channel_attention", C[..., None, None], lambda t: conv2d(X, KERNELS[0], channel_attention=t)),
    ("conv2d: input", X, lambda t: conv2d(t, KERNELS[0], padding="same")),
    ("conv2d: input", X[0], lambda t: conv2d(t, KERNELS[0])),
    ("conv1d: input", X[..., 0], lambda t: conv1d(t, KERNELS[0, ..., 0])),
    ("conv1d: input", X[0, ..., 0], lambda t: conv1d(t, KERNELS[0, ..., 0])),
    ("conv1d: input", X[..., 0], lambda t: conv1d(t, KERNELS[0, ..., 0], padding="causal")),
    ("conv1d: weight", KERNELS[0, ..., 0], lambda t: conv1d(X[..., 0], t)),
    ("conv1d: bias", BIASES, lambda t: conv1d(X[..., 0], KERNELS[..., 0], t, kernel_attention=A)),
    ("conv_transpose2d: bias", BIASES, lambda t: conv_transpose2d(X, KERNELS, t, kernel_attention=A)),
    ("conv_transpose2d: input", X, lambda t: conv_transpose2d(t, KERNELS[0], dilation=3, output_padding=2)),
    ("conv_transpose2d: weight", KERNELS[0], lambda t: conv_transpose2d(X, t, stride=2, output_padding=1)),
    ("conv_transpose2d: filter_attention", C, lambda t: conv_transpose2d(X, KERNELS[0], filter_attention=t)),
    ("modulated_conv2d: x", X, lambda t: modulated_conv2d(t, KERNELS[0], C)),
    ("modulated_conv2d: weight", KERNELS[0], lambda t: modulated_conv2d(X, t, C)),
    ("modulated_conv2d: styles", C, lambda t: modulated_conv2d(X, KERNELS[0], t)),
    ("modulated_conv2d: input_gain", C, lambda t: modulated_conv2d(X, KERNELS[0], C, input_gain=t)),
    ("modulated_conv2d: kernel_attention", A, lambda t: modulated_conv2d(X, KERNELS, C, kernel_attention=t)),
    ("modulated_conv2d: resample_filter", A, lambda t: modulated_conv2d(X, KERNELS[0], C, up=2, resample_filter=t)),
    ("DynamicConv2d: x", X, lambda t: DynamicConv2d(6, 8, 3)(t)),
    ("ODConv2d: x", X, lambda t: ODConv2d(6, 8, 3)(t)),
    ("CondConv2d: routing_weights", A, lambda t: CondConv2d(6, 8, num_experts=3)(X, t)),
    ("AdaptiveConv2DMod: mod", C, lambda t: AdaptiveConv2DMod(6, 8, 3)(X, t)),
]
EACH_PREPARED = pytest.mark.parametrize(("name", "tensor", "call"), PREPARED, ids=[name for name, _, _ in PREPARED])


@EACH_PREPARED
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_layouts_of_memory_are_refused_by_what_goes_before_the_op(name, tensor, call, layout):
    change, got = LAYOUTS[layout]
    with pytest.raises(TypeError, match=f"^{name} must be a strided tensor, got {got}$"):
        call(change(tensor))


# A parameter whose storage was freed keeps its shape, as one that FSDP has taken away.
FREED = "has a non-zero number of elements, but its data is not allocated"


def freed(tensor):
    """A tensor like this one, at an offset into a storage that is no more."""
    tensor = torch.stack([tensor, tensor])[1].detach()
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("name", TENSORS)
def test_freed_tensors_are_refused(backend, name):
    call = good(name)
    skip_unless_it_runs(backend, call)
    conv2d(**call._asdict(), backend=backend)  # from now on the backend has a plan for such calls
    with pytest.raises(RuntimeError, match=f"^conv2d: {name} {FREED}"):
        conv2d(**call._replace(**{name: freed(getattr(call, name))})._asdict(), backend=backend)


@EACH_PREPARED
def test_freed_tensors_are_refused_by_what_goes_before_the_op(name, tensor, call):
    with pytest.raises(RuntimeError, match=f"^{name} {FREED}"):
        call(freed(tensor))


@pytest.mark.parametrize("name", TENSORS)
def test_freed_tensors_are_refused_under_autocast(name):
    call = good(name)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match=f"^conv2d: {name} {FREED}"):
        conv2d(**call._replace(**{name: freed(getattr(call, name))})._asdict())


@pytest.mark.parametrize("name", ["grad_output", *TENSORS])
def test_freed_tensors_are_refused_in_backward(backend, name):
    call, grad = good(name), ones(2, 4, 3, 3)
    skip_unless_it_runs(backend, call)
    with use_backend(backend):
        torch.ops.kerneldna.conv_backward(grad, *call, [True] * 6)
        if name == "grad_output":
            grad = freed(grad)
        else:
            call = call._replace(**{name: freed(getattr(call, name))})
        with pytest.raises(RuntimeError, match=f"kerneldna::conv_backward: {name} {FREED}"):
            torch.ops.kerneldna.conv_backward(grad, *call, [True] * 6)


def test_tensors_freed_between_forward_and_backward_are_refused(backend):
    skip_unless_it_runs(backend, GOOD)
    weight = GOOD.weight.clone()
    output = conv2d(
        **GOOD._replace(input=GOOD.input.clone().requires_grad_(), weight=weight)._asdict(), backend=backend
    )
    weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=f"kerneldna::conv_backward: weight {FREED}"):
        output.sum().backward()


@pytest.mark.parametrize("name", GATE)
def test_freed_tensors_are_refused_by_squeeze_excite(name):
    for backend in (None, "composite"):
        with use_backend(backend), pytest.raises(RuntimeError, match=f"kerneldna::squeeze_excite: {name} {FREED}"):
            torch.ops.kerneldna.squeeze_excite(**{**GATE, name: freed(GATE[name])})


def test_freed_tensors_are_refused_in_training():
    features = {name: ones(3) for name in ("bn_weight", "bn_bias", "running_mean", "running_var")}
    forward = {**GATE, **features, "eps": 1e-5, "share": 0.1, "from_batch": True}
    del forward["fc1_bias"]
    outputs = dict(zip(("gate", "means", "features", "xhat", "rstd"), train(**forward), strict=True))
    for name in [*forward][:-3]:
        with pytest.raises(RuntimeError, match=f"{name} {FREED}"):
            train(**{**forward, name: freed(forward[name])})
    weights = {name: forward[name] for name in ("fc1_weight", "bn_weight", "fc2_weight")}
    backward = {"grad": ones(2, 6), **weights, **outputs, "pixels": 20, "from_batch": True}
    train_backward(**backward)
    for name in [*backward][:-2]:
        with pytest.raises(RuntimeError, match=f"{name} {FREED}"):
            train_backward(**{**backward, name: freed(backward[name])})
