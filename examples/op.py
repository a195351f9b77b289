"""The op itself: three attentions per sample, their gradients, and what answers the call.

python examples/op.py"""

import torch

from kerneldna_ops import explain_backends
from kerneldna_ops.functional import conv2d

torch.manual_seed(0)
x = torch.randn(8, 64, 28, 28)
weight = torch.randn(128, 64, 3, 3, requires_grad=True)
attentions = {
    "channel_attention": torch.rand(8, 64, requires_grad=True),  # c, for each sample and input channel
    "filter_attention": torch.rand(8, 128, requires_grad=True),  # f, for each sample and output channel
    "spatial_attention": torch.rand(8, 3, 3, requires_grad=True),  # s, for each sample and tap of the kernel
}

y = conv2d(x, weight, **attentions, padding=1)
y.square().mean().backward()
print("output", list(y.shape))
for name, tensor in {"weight": weight, **attentions}.items():
    print(f"gradient of {name}: {list(tensor.grad.shape)}")

# The same, as everybody writes it: a weight for each sample.
c, f, s = attentions.values()
weights = weight * c[:, None, :, None, None] * f[:, :, None, None, None] * s[:, None, None]
slow = torch.nn.functional.conv2d(x.reshape(1, -1, 28, 28), weights.flatten(0, 1), padding=1, groups=8).view_as(y)
print(f"largest difference from a weight for each sample: {(y - slow).abs().max():.1e} of {slow.abs().max():.0f}")

for backend, (runs, reason) in explain_backends(x, weight, **attentions, padding=1).items():
    print(f"{backend:10} {'can run' if runs else 'cannot'}: {reason}")
