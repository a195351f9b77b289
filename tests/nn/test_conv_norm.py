"""conv_norm against calling the two layers one after the other."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from kerneldna_ops.nn import ChildConv2d, conv_norm
from support import dressed


def settled(norm):
    """The norm with statistics and parameters that are no identity, in eval mode."""
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + (0.5 if name == "running_var" else -0.5))
    return norm.eval()


def small_map(dtype=torch.float64):
    """More weights than outputs."""
    return nn.Conv2d(6, 8, 3, bias=False, dtype=dtype), torch.randn(2, 6, 4, 4, dtype=dtype)


def large_map(dtype=torch.float64, **options):
    return nn.Conv2d(6, 8, 3, padding=1, bias=False, dtype=dtype, **options), torch.randn(2, 6, 17, 15, dtype=dtype)


def child(dtype=torch.float64, **options):
    layer = ChildConv2d(nn.Conv2d(6, 8, 3, padding=1, bias=False, dtype=dtype), **options).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer, torch.randn(2, 6, 9, 7, dtype=dtype)


PAIRS = {
    "small map": small_map,
    "large map": large_map,
    "stride 2": lambda: large_map(stride=2, dilation=(1, 2)),
    "groups": lambda: large_map(groups=2),
    "bias": lambda: (nn.Conv2d(6, 8, 3, dtype=torch.float64), torch.randn(2, 6, 17, 15, dtype=torch.float64)),
    "reflected border": lambda: large_map(padding_mode="reflect"),
    "child": child,
    "child with bias": lambda: child(bias=True),
    "child without f": lambda: child(filter=None),
    "dynamic child": lambda: child(filter="dynamic", spatial="dynamic"),
    "child of a grouped parent": lambda: (
        ChildConv2d(nn.Conv2d(6, 8, 3, groups=2, dtype=torch.float64)).eval(),
        torch.randn(2, 6, 9, 7, dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("affine", [True, False])
def test_in_inference_it_is_the_norm_of_the_convolution(pair, affine):
    conv, input = PAIRS[pair]()
    norm = settled(nn.BatchNorm2d(8, affine=affine, eps=0.1, dtype=torch.float64))
    with torch.no_grad():
        torch.testing.assert_close(conv_norm(conv, norm, input), norm(conv(input)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pair", ["large map", "child"])
def test_in_inference_the_norm_is_no_pass_of_its_own(pair, monkeypatch):
    conv, input = PAIRS[pair]()
    norm = settled(nn.BatchNorm2d(8, dtype=torch.float64))
    monkeypatch.setattr(nn.BatchNorm2d, "forward", None)
    with torch.inference_mode():
        conv_norm(conv, norm, input)


def test_on_a_map_smaller_than_the_weight_the_norm_is_called(monkeypatch):
    conv, input = small_map()
    norm = settled(nn.BatchNorm2d(8, dtype=torch.float64))
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, input: input)
    with torch.no_grad():
        assert torch.equal(conv_norm(conv, norm, input), conv(input))


CALLED = {
    "gradients": lambda conv, norm: torch.enable_grad(),
    "autocast": lambda conv, norm: torch.autocast("cpu", torch.bfloat16),
    "statistics of the batch": lambda conv, norm: norm.train(),
    "no statistics": lambda conv, norm: norm.__dict__["_buffers"].update(running_mean=None, running_var=None),
    "a hook on the norm": lambda conv, norm: norm.register_forward_hook(lambda *_: None),
    "a hook on the convolution": lambda conv, norm: conv.register_forward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("make", [large_map, child])
@pytest.mark.parametrize("case", CALLED)
def test_otherwise_the_two_are_called(make, case, monkeypatch):
    conv, input = make(torch.float32)
    norm = settled(nn.BatchNorm2d(8))
    calls = []
    forward = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda *args: calls.append(args) or forward(*args))
    around = CALLED[case](conv, norm)
    with torch.no_grad(), around if case in ("gradients", "autocast") else nullcontext():
        conv_norm(conv, norm, input)
    assert len(calls) == 1


def test_another_norm_is_called():
    conv, input = large_map()
    norm = nn.GroupNorm(2, 8, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(conv_norm(conv, norm, input), norm(conv(input)))


def test_a_change_of_the_statistics_is_followed():
    conv, input = large_map()
    norm = settled(nn.BatchNorm2d(8, dtype=torch.float64))
    with torch.no_grad():
        conv_norm(conv, norm, input)
        norm.running_mean.data.add_(1)
        torch.testing.assert_close(conv_norm(conv, norm, input), norm(conv(input)))


def test_channels_last_stays():
    for conv, input in (large_map(torch.float32), child(torch.float32)):
        norm = settled(nn.BatchNorm2d(8))
        with torch.no_grad():
            output = conv_norm(conv, norm, input.to(memory_format=torch.channels_last))
        assert output.is_contiguous(memory_format=torch.channels_last)


def test_a_wrong_input_is_the_layers_own_error():
    conv, _ = child()
    norm = settled(nn.BatchNorm2d(8, dtype=torch.float64))
    with torch.no_grad(), pytest.raises(ValueError, match=r"^ChildConv2d: input must have 6 channels, got 5 in"):
        conv_norm(conv, norm, torch.randn(2, 5, 9, 7, dtype=torch.float64))


@pytest.mark.parametrize("make", [large_map, child])
def test_two_precisions(make):
    """A network in half precision whose norms stay in float32."""
    conv, input = make(torch.bfloat16)
    norm = settled(nn.BatchNorm2d(8))
    with torch.no_grad():
        output = conv_norm(conv, norm, input)
        torch.testing.assert_close(output, norm(conv(input)), rtol=0, atol=0)
    assert output.dtype == torch.bfloat16


def hook_on_all_norms(conv, norm):
    return nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output + 1 if module is norm else None
    )


DRESSED = {
    "hook on conv": lambda conv, norm: conv.register_forward_hook(lambda *call: call[2] + 1),
    "hook on norm": lambda conv, norm: norm.register_forward_hook(lambda *call: call[2] + 1),
    "forward of conv": lambda conv, norm: dressed.with_forward(conv),
    "forward of norm": lambda conv, norm: dressed.with_forward(norm),
    "global hook": hook_on_all_norms,
}


@pytest.mark.parametrize("make", [large_map, child])
@pytest.mark.parametrize("what", DRESSED)
def test_what_is_done_to_the_layers_is_seen(what, make):
    conv, input = make()
    norm = settled(nn.BatchNorm2d(8).double())
    with torch.no_grad():
        before = norm(conv(input))
        handle = DRESSED[what](conv, norm)
        try:
            actual, expected = conv_norm(conv, norm, input), norm(conv(input))
        finally:
            if handle is not None:
                handle.remove()
    torch.testing.assert_close(actual, expected)
    assert not actual.allclose(before)
