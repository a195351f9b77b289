"""The dynamic convolutions of kerneldna_ops.nn by the published formulas, with kernels for each sample and
a convolution of N groups. And the cases that the layers are tested with."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from kerneldna_ops.nn import AdaptiveConv2DMod, CondConv2d, DynamicConv2d, ModulatedConv2d, ODConv2d

# Each formula takes the arguments of the layer's constructor, its parameters and buffers by name and the arguments of
# its forward.


def convolved(x, kernels, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Sample n by kernels[n], [N, C_out, C_in/groups, kh, kw], and bias[n]."""
    n = len(x)
    bias = None if bias is None else bias.flatten()
    y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), bias, stride, padding, dilation, groups * n)
    return y.view(n, -1, *y.shape[2:])


def geometry(options):
    return {name: options[name] for name in ("stride", "padding", "dilation", "groups") if name in options}


def mixed(shares, kernels):
    return torch.einsum("nk,k...->n...", shares, kernels)


def linear(p, name, features):
    """A 1x1 convolution of one pixel."""
    y = features @ p[f"{name}.weight"].flatten(1).T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def cond_conv(options, p, x, r):
    _, out, (kh, kw) = options["args"]
    kernels = mixed(r, p["weight"]).view(len(x), out, -1, kh, kw)
    return convolved(x, kernels, mixed(r, p["bias"]) if "bias" in p else None, **geometry(options))


def dynamic_conv(options, p, x):
    hidden = linear(p, "attention.fc1", x.mean((2, 3))).relu()
    a = (linear(p, "attention.fc2", hidden) / options["temperature"]).softmax(1)
    return convolved(x, mixed(a, p["weight"]), mixed(a, p["bias"]) if "bias" in p else None, **geometry(options))


def od_conv(options, p, x, training):
    temperature = options["temperature"]
    z = linear(p, "attention.fc", x.mean((2, 3)))
    mean, var = p["attention.bn.running_mean"], p["attention.bn.running_var"]
    if training:
        mean, var = z.mean(0), z.var(0, correction=0)
    hidden = ((z - mean) / (var + 1e-5).sqrt() * p["attention.bn.weight"] + p["attention.bn.bias"]).relu()

    def logits(name):
        return linear(p, f"attention.{name}_fc", hidden) / temperature

    n, (channels, filters, (kh, kw)), groups = len(x), options["args"], options.get("groups", 1)
    kernels = p["weight"].expand(n, *p["weight"].shape)
    if options["kernel_num"] > 1:
        kernels = kernels * logits("kernel").softmax(1)[:, :, None, None, None, None]
    kernels = kernels.sum(1)
    if kh * kw > 1:
        kernels = kernels * logits("spatial").sigmoid().view(n, 1, 1, kh, kw)
    if not channels == filters == groups:
        kernels = kernels * logits("filter").sigmoid()[:, :, None, None, None]
    c = logits("channel").sigmoid().view(n, groups, 1, -1).expand(-1, -1, filters // groups, -1)
    return convolved(x, kernels * c.reshape(n, filters, -1, 1, 1), **geometry(options))


def adaptive_conv(options, p, fmap, mod, kernel_mod=None):
    a = torch.ones_like(mod[:, :1]) if kernel_mod is None else kernel_mod.softmax(1)
    kernels = mixed(a, p["weights"]) * (mod + 1)[:, None, :, None, None]
    if options.get("demod", True):
        norms = kernels.square().sum((2, 3, 4), keepdim=True)
        kernels = kernels * norms.clamp_min(options.get("eps", 1e-8)).rsqrt()
    return convolved(fmap, kernels, **geometry(options))


def modulated_conv(options, p, x, styles):
    kernels = p["weight"] * styles[:, None, :, None, None]
    if options.get("demodulate", True):
        kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    return convolved(x, kernels, **geometry(options))


class Case(NamedTuple):
    kind: type
    formula: object
    options: dict

    def layer(self):
        """In float64, with parameters and statistics of no special values, as after some training."""
        options = dict(self.options)
        args, temperature = options.pop("args"), options.get("temperature")
        if self.kind is AdaptiveConv2DMod:
            options.pop("padding")  # the layer's own
        if self.kind is ODConv2d:
            options.pop("temperature")
        layer = self.kind(*args, **options).double()
        if self.kind is ODConv2d:
            layer.update_temperature(temperature)
        with torch.no_grad():
            for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
                if name.endswith("running_var"):
                    value.uniform_(0.5, 2)
                elif value.is_floating_point():
                    value.normal_(0, 0.7)
        return layer

    def inputs(self, samples=3, size=(7, 6)):
        """What the forward takes, in float64."""
        channels = self.options["args"][0]
        x = torch.randn(samples, channels, *size, dtype=torch.float64)
        kernels = self.options.get("num_experts", self.options.get("num_conv_kernels", 1))
        others = {
            CondConv2d: [torch.rand(samples, kernels)],
            AdaptiveConv2DMod: [torch.randn(samples, channels)] + [torch.randn(samples, kernels)] * (kernels > 1),
            ModulatedConv2d: [torch.randn(samples, channels)],
        }
        return [x, *(other.double() for other in others.get(self.kind, []))]

    def truth(self, layer, parameters, inputs):
        more = {"training": layer.training} if self.kind is ODConv2d else {}
        return self.formula(self.options, parameters, *inputs, **more)


GEOMETRIES = {
    "3x3": {"args": (6, 8, (3, 3)), "padding": 1},
    "3x2 groups": {"args": (6, 8, (3, 2)), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2},
    "depthwise": {"args": (6, 6, (3, 3)), "padding": 1, "groups": 6},
    "depthwise times 2": {"args": (6, 12, (3, 3)), "groups": 6},
    "1x1": {"args": (6, 8, (1, 1))},
    "1x1 depthwise": {"args": (6, 6, (1, 1)), "groups": 6},
    "three planes": {"args": (3, 5, (3, 3)), "stride": 2},
}
CASES = {}
for name, options in GEOMETRIES.items():
    for k in (1, 4):
        CASES[f"condconv {name} K={k}"] = Case(CondConv2d, cond_conv, {"padding": 0, **options, "num_experts": k})
        CASES[f"dynamic {name} K={k}"] = Case(DynamicConv2d, dynamic_conv, {**options, "K": k, "temperature": 2.5})
        CASES[f"odconv {name} K={k}"] = Case(ODConv2d, od_conv, {**options, "kernel_num": k, "temperature": 2.5})
CASES["condconv with bias"] = Case(CondConv2d, cond_conv, {**GEOMETRIES["3x3"], "bias": True, "num_experts": 4})
CASES["dynamic without bias"] = Case(
    DynamicConv2d, dynamic_conv, {**GEOMETRIES["3x2 groups"], "bias": False, "temperature": 1.0}
)
for k in (1, 4):
    for name, options in {
        "3x3": {"args": (6, 8, (3, 3)), "padding": 1},
        "not demodulated": {"args": (6, 8, (3, 3)), "padding": 1, "demod": False},
        "stride and dilation": {"args": (6, 8, (3, 5)), "stride": (2, 1), "dilation": (2, 1), "padding": (2, 2)},
        "1x1": {"args": (6, 8, (1, 1)), "padding": 0},
        "clamped": {"args": (6, 8, (3, 3)), "padding": 1, "eps": 30.0},
    }.items():
        CASES[f"adaptive {name} K={k}"] = Case(AdaptiveConv2DMod, adaptive_conv, {**options, "num_conv_kernels": k})
CASES["modulated 3x3"] = Case(ModulatedConv2d, modulated_conv, {"args": (6, 8, (3, 3)), "padding": 1})
CASES["modulated 1x1"] = Case(
    ModulatedConv2d, modulated_conv, {"args": (6, 3, (1, 1)), "demodulate": False, "padding": 0}
)

# One of each kind, where the formula is not the question.
ONE_OF_EACH = [
    "condconv with bias",
    "dynamic 3x3 K=4",
    "odconv 3x3 K=4",
    "odconv 3x2 groups K=1",
    "adaptive 3x3 K=4",
    "modulated 3x3",
]
