"""Parents and children in one of torchvision's networks: what it saves, and how to train the adapters alone.

python examples/share_torchvision.py [WEIGHTS.pth]

WEIGHTS.pth is a state_dict of torchvision's resnet18; without one the weights are random."""

import sys

import torch
import torchvision

import kerneldna_ops
from kerneldna_ops.models import count_parameters

torch.manual_seed(0)
network = torchvision.models.resnet18()
if len(sys.argv) > 1:
    network.load_state_dict(torch.load(sys.argv[1], weights_only=True))
before = count_parameters(network)

sharing = kerneldna_ops.share_kernels(network)  # in place: layers of one shape in a stage share the first one's kernel
print(sharing.report)
print(f"{before:,} parameters before, {count_parameters(network):,} after")

sharing.freeze_parents()  # first the adapters, which start at the parent's own kernel
trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
images, labels = torch.randn(4, 3, 64, 64), torch.randint(1000, (4,))
network.train()
for _ in range(2):
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"trained {sum(parameter.numel() for parameter in trained):,} parameters; loss {loss.item():.2f}")

plain = kerneldna_ops.materialize(network.eval())  # torch's own modules, for tools that look at them
print(f"materialized: largest difference {(plain(images) - network(images)).abs().max():.1e}")
