"""A network of your own whose layers share one kernel, trained for a few steps on random images.

python examples/own_network.py"""

import torch
from torch import nn

from kerneldna_ops.models import count_parameters
from kerneldna_ops.nn import ChildConv2d


class Block(nn.Module):
    """Three convolutions with one kernel: the parent's own, a child as published, and one modulated by each sample."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.parent = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.published = ChildConv2d(self.parent)  # c from the input, f and s trained
        self.dynamic = ChildConv2d(self.parent, filter="dynamic", spatial="dynamic")  # all three from the input
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip((self.parent, self.published, self.dynamic), self.norms, strict=True):
            x = x + norm(layer(x)).relu()
        return x


torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), Block(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
)
print(f"{count_parameters(model):,} parameters, the shared kernel counted once")

images, labels = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for step in range(30):
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(f"step {step + 1}: loss {loss.item():.3f}")

model.eval()
torch.save(model.state_dict(), "own_network.pt")  # the kernel stands once in it
print("saved own_network.pt")
