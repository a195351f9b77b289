"""A convolution with a mixture of K kernels, another one for each sample: CondConv, dynamic convolution, ODConv."""

import math

import torch
from torch import Tensor, nn

from kerneldna_ops.functional import conv2d

from .layer import PeerConv2d, add_bias, per_sample_conv2d


class MixedConv2d(PeerConv2d):
    """A layer with `count` kernels [K, C_out, C_in/groups, kh, kw], and as many biases [K, C_out]."""

    def __init__(self, count: int, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if count < 1:
            raise ValueError(f"{type(self).__name__}: kernels must be at least 1, got {count}")
        self.weight = nn.Parameter(torch.stack([self.new_kernel() for _ in range(count)]))
        if self.bias is not None:
            self.bias = nn.Parameter(self.bias.new_zeros(count, self.out_channels))

    def mix(
        self, input: Tensor, mixture: Tensor, c: Tensor | None = None, f: Tensor | None = None, s: Tensor | None = None
    ) -> Tensor:
        """y_n = f_n * conv(c_n * x_n, s_n * sum_k a_nk W_k) + sum_k a_nk b_k

        Without kernel_attention, which kerneldna_ops.nn's layers have for it, there are two ways: K calls of the op,
        with a_nk in f, cost K static convolutions; a kernel mixed for each sample and a convolution of N groups cost
        one, and the memory traffic of N kernels. The first is the faster where many samples have small maps.

        Args:
            mixture: a, [N, K].
            c, f, s: [N, C_in], [N, C_out], [N, kh, kw].
        """
        way = self._by_op_calls if self._op_calls_are_faster(input) else self._by_sample
        return add_bias(way(input, mixture, c, f, s), None if self.bias is None else mixture @ self.bias)

    def _by_op_calls(
        self, input: Tensor, mixture: Tensor, c: Tensor | None, f: Tensor | None, s: Tensor | None
    ) -> Tensor:
        outputs = []
        for kernel, share in zip(self.weight, mixture.T, strict=True):
            filter = share[:, None].expand(-1, self.out_channels) if f is None else share[:, None] * f
            attentions = {"channel_attention": c, "filter_attention": filter, "spatial_attention": s}
            outputs.append(conv2d(input, kernel, **attentions, **self.geometry))
        return sum(outputs[1:], outputs[0])

    def _by_sample(
        self, input: Tensor, mixture: Tensor, c: Tensor | None, f: Tensor | None, s: Tensor | None
    ) -> Tensor:
        kernels = (mixture @ self.weight.flatten(1)).view(-1, *self.kernel_shape)
        if s is not None:
            kernels = kernels * s[:, None, None]
        output = per_sample_conv2d(input if c is None else input * c[..., None, None], kernels, **self.geometry)
        return output if f is None else output * f[..., None, None]

    def _op_calls_are_faster(self, input: Tensor) -> bool:
        """Measured on a CPU with 32 to 512 channels, 1 to 64 samples, 4 and 8 kernels: on maps of 4x4 at most."""
        height, width = (size // stride for size, stride in zip(input.shape[2:], self.stride, strict=True))
        return len(input) >= 16 and len(self.weight) * height * width <= 8 * math.prod(self.kernel_size)
