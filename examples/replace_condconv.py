"""CondConv layers of a network of timm replaced by kerneldna_ops.nn.CondConv2d, which makes no kernel for each sample:
the weights are kept, the outputs are the same, and training goes on.

python examples/replace_condconv.py [NAME]

NAME is a network of timm with such layers, tf_efficientnet_cc_b0_4e if it is not given; its weights are random here."""

import sys

import timm
import torch
from timm.layers import CondConv2d

from kerneldna_ops import nn


def replace(network):
    """Puts ours in the place of timm's, in place; returns how many. Optimizers are made afterwards."""
    count = 0
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is CondConv2d:
                setattr(parent, name, ours(layer))
                count += 1
    return count


def ours(layer):
    """With the same parameters, not copies of them."""
    new = nn.CondConv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        "same" if layer.dynamic_padding else layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
        layer.num_experts,
        device="meta",  # its own are not needed
    )
    new.weight, new.bias = layer.weight, layer.bias
    return new.train(layer.training)


torch.manual_seed(0)
network = timm.create_model(*sys.argv[1:2] or ["tf_efficientnet_cc_b0_4e"]).eval()
images, state = torch.randn(4, 3, 64, 64), network.state_dict()
with torch.no_grad():
    before = network(images)
    print(f"{replace(network)} layers replaced")
    after = network(images)
torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * before.abs().max().item())
print(f"largest difference {(after - before).abs().max():.1e}, largest output {before.abs().max():.1e}")
network.load_state_dict(state, strict=True)  # timm's checkpoints fit, and those written from here fit timm's network

network.train()
optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
loss = torch.nn.functional.cross_entropy(network(images), torch.randint(1000, (4,)))
loss.backward()
optimizer.step()
print(f"a step of training, loss {loss.item():.2f}")
