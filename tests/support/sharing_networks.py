"""A small network with layers that could share kernels, and what tests do to it."""

import torch
import torch.nn.functional as F
from torch import nn

# What "position" makes of Net with three blocks.
PAIRS = {f"blocks.{n}.conv2": [f"blocks.{n}.conv1"] for n in range(3)}


class Block(nn.Module):
    def __init__(self, channels, dilation=1, **arguments):
        super().__init__()
        arguments |= {"padding": dilation, "dilation": dilation}
        self.conv1 = nn.Conv2d(channels, channels, 3, bias=False, **arguments)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, **arguments)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    """Images [N, 3, H, W] -> [N, 5]: in each block two convolutions of equal shape, the latter with a bias."""

    def __init__(self, channels=8, blocks=3, **arguments):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(Block(channels, **arguments) for _ in range(blocks)))
        self.fc = nn.Linear(channels, 5)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.bn(self.stem(x)))).mean((2, 3)))


def build(kind=Net, **arguments):
    """In eval mode, with statistics as after some training."""
    model = kind(**arguments)
    with torch.no_grad():
        model.train()(torch.randn(16, 3, 12, 12))
    return model.eval()


def equal_weights(model, groups):
    """Gives the layers of each group the weight of its parent."""
    with torch.no_grad():
        for parent, children in groups.items():
            for child in children:
                model.get_submodule(child).weight.copy_(model.get_submodule(parent).weight)
    return model


def disturb(sharing):
    """Adapters as after training: nothing in them is zero or one."""
    with torch.no_grad():
        for parameter in sharing.adapter_parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
        for child in sharing.children.values():
            child.adapter.se.bn.running_mean.normal_(0, 0.1)
            child.adapter.se.bn.running_var.uniform_(0.5, 2)


def output(model, images):
    with torch.no_grad():
        return model(images)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    """Whether two state_dicts are equal bit by bit, in the same order."""
    return list(first) == list(second) and all(first[key].equal(second[key]) for key in first)
