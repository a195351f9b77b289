"""ResNet-18 whose 3x3 convolutions have ODConv's attention (Li et al., ICLR 2022; one kernel, so no kernel attention):
static, through the op, and through the grouped convolution that ODConv itself uses. Batch 8, 224x224, paired ratios.

    python -m benchmarks.odconv_resnet18

Targets: the op at most 1.2 times static forward, 1.3 times in training. Modules are in eval mode, attention included in
the time; training is the forward and the gradients of all parameters."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .paired import alternate
from .peers.layer import per_sample_conv2d
from .peers.od_conv import ODConv2d
from .process import KEEP_MEMORY, description, restart_with

TARGETS = {"forward": 1.2, "training": 1.3}
TOLERANCE = 1e-3


class GroupedODConv2d(ODConv2d):
    """As the authors' code does it: c on the input, f on the output, W * s per sample in one grouped convolution."""

    def forward(self, x: Tensor) -> Tensor:
        c, f, s, _ = self.attention(x)
        y = per_sample_conv2d(x * c[:, :, None, None], self.weight * s[:, None, None], **self.geometry)
        return y * f[:, :, None, None]


def dynamic_conv(layer: type[ODConv2d], in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return layer(in_channels, out_channels, 3, stride, 1, bias=False)


def static_conv(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)


ConvMaker = Callable[[int, int, int], nn.Module]


class Block(nn.Module):
    def __init__(self, conv: ConvMaker, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels)
        self.conv2, self.bn2 = conv(out_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Sequential):
    def __init__(self, conv: ConvMaker) -> None:
        blocks = []
        channels = 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [Block(conv, channels, width, stride), Block(conv, width, width, 1)]
            channels = width
        super().__init__(
            *(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
            *blocks,
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)),
        )


def forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def training(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(model(x).square().mean(), list(model.parameters()))


def main() -> None:
    restart_with(KEEP_MEMORY)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    x = torch.randn(options.batch, 3, options.size, options.size)
    models = {
        "static": ResNet18(static_conv),
        "op": ResNet18(partial(dynamic_conv, ODConv2d)),
        "grouped": ResNet18(partial(dynamic_conv, GroupedODConv2d)),
    }
    models["grouped"].load_state_dict(models["op"].state_dict())
    for model in models.values():
        model.eval()
    expected = forward(models["grouped"], x)
    error = ((forward(models["op"], x) - expected).abs().max() / expected.abs().max()).item()
    assert error <= TOLERANCE, f"op and grouped convolution differ by {error:.1e} of the output's range"

    rows = []
    for mode, run in (("forward", forward), ("training", training)):
        calls = {name: partial(run, model, x) for name, model in models.items()}
        rounds = alternate(calls, options.rounds, sample_seconds=0.2)
        for name, model in models.items():
            ratio, seconds = rounds.ratio(name, "static"), rounds.time(name)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            rows.append(
                {
                    "mode": mode,
                    "candidate": name,
                    "parameters": parameters,
                    "milliseconds": seconds.median * 1e3,
                    "ratio": {"median": ratio.median, "low": ratio.low, "high": ratio.high, "rounds": ratio.count},
                }
            )
            goal = f"; target {TARGETS[mode]}" if name == "op" else ""
            print(
                f"{mode:8} {name:8} {parameters / 1e6:6.2f} M parameters {seconds.median * 1e3:8.1f} ms"
                f"  ratio {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]{goal}",
                flush=True,
            )
    if options.json:
        machine = {name: value for name, value in description().items() if name != "package"}
        options.json.write_text(json.dumps({"machine_info": machine, "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
