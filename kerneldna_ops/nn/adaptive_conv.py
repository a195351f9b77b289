"""GigaGAN's sample-adaptive kernel selection: Kang et al., Scaling up GANs for Text-to-Image Synthesis (arXiv
2303.05511, section 3.1)."""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from .._modulation import energies
from ._checks import check_layer_input, check_per_sample, flag, positive, whole
from ._fx import leaf
from ._geometry import ConvLayer


class AdaptiveConv2DMod(ConvLayer):
    """conv(x, w_n) with w_n = sum_k softmax(kernel_mod)[n,k] W_k * (mod[n,i] + 1), each filter divided by its norm.

    Arguments, initialisation and state_dict are those of AdaptiveConv2DMod in lucidrains/gigagan-pytorch and
    fal-ai/aura-sr: `weights` is [num_conv_kernels, dim_out, dim, kernel, kernel]. The forward is one call of
    `kerneldna_ops.functional.conv2d`, c = mod + 1 and f the demodulation, and makes no kernel for each sample.

    Stride and dilation, which those layers take and ignore, are those of the convolution here. The padding is
    dilation * (kernel - 1) // 2: with stride 1 and an odd kernel the output is as large as the input.

    Args:
        dim, dim_out: C_in and C_out.
        kernel: the kernel size.
        demod: whether each filter of each sample is divided by its norm.
        stride, dilation: as for nn.Conv2d.
        eps: the least square of a norm.
        num_conv_kernels: K.

    Shape: fmap [N, C_in, H, W]; mod [N, C_in]; kernel_mod [N, K], or of one kernel None or empty; output [N, C_out,
    H_out, W_out]. float64, float32, float16 or bfloat16, one for all. mod and kernel_mod may be those of N / s samples,
    for a fmap that has s scales of them in a row.

    Raises:
        TypeError, ValueError: an argument does not fit.
    """

    dim: int
    dim_out: int

    def __init__(
        self,
        dim: int,
        dim_out: int,
        kernel: int | tuple[int, int],
        *,
        demod: bool = True,
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        eps: float = 1e-8,
        num_conv_kernels: int = 1,
    ) -> None:
        super().__init__({"dim": dim, "dim_out": dim_out}, kernel, stride, 0, dilation, 1)
        height, width = (d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        self.padding = (height, width)
        self.demod, self.eps = flag("AdaptiveConv2DMod", "demod", demod), positive("AdaptiveConv2DMod", "eps", eps)
        self.num_conv_kernels = whole("AdaptiveConv2DMod", "num_conv_kernels", num_conv_kernels)
        self.weights = nn.Parameter(torch.empty(self.num_conv_kernels, *self._kernel_shape))
        nn.init.kaiming_normal_(self.weights)

    def forward(self, fmap: Tensor, mod: Tensor, kernel_mod: Tensor | None = None) -> Tensor:
        if isinstance(fmap, Proxy):
            return leaf(self, fmap, mod, kernel_mod)
        check_layer_input("AdaptiveConv2DMod", fmap, self.dim, "weights", self.weights, "fmap")
        c = self._for_all_scales("mod", mod, fmap, self.dim) + 1
        a = self._shares(kernel_mod, fmap)
        weight = self.weights[0] if a is None else self.weights
        f = demodulation(weight, c, a, self.eps).to(fmap.dtype) if self.demod else None
        return self._convolve(fmap, weight, channel_attention=c, filter_attention=f, kernel_attention=a)

    def _shares(self, kernel_mod: Tensor | None, fmap: Tensor) -> Tensor | None:
        """Of the kernels, [N, K], where there are several."""
        absent = kernel_mod is None or (isinstance(kernel_mod, Tensor) and kernel_mod.shape[-1:] == (0,))
        if self.num_conv_kernels == 1:
            if not absent:
                raise ValueError("AdaptiveConv2DMod: kernel_mod must be None where num_conv_kernels is 1")
            return None
        if absent:
            raise ValueError(f"AdaptiveConv2DMod: kernel_mod must be [N, {self.num_conv_kernels}], got none")
        return self._for_all_scales("kernel_mod", kernel_mod, fmap, self.num_conv_kernels).softmax(1)

    def _for_all_scales(self, name: str, values: Tensor | None, fmap: Tensor, size: int) -> Tensor:
        """[N, size], repeated where fmap has several scales of the samples."""
        samples, total = values.shape[0] if isinstance(values, Tensor) and values.dim() else 0, fmap.shape[0]
        if values is not None and samples and samples != total and total % samples == 0:
            values = values.repeat(total // samples, 1)
        check_per_sample("AdaptiveConv2DMod", name, values, fmap, size, "fmap")
        assert values is not None
        return values

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, demod={self.demod}, num_conv_kernels={self.num_conv_kernels}"


def demodulation(weight: Tensor, c: Tensor, a: Tensor | None, eps: float) -> Tensor:
    """The reciprocal norms [N, C_out] of the filters of sum_k a[n,k] weight[k] * c[n], without kernels per sample:

        rsqrt(max(sum_kl a[n,k] a[n,l] sum_i c[n,i]^2 G[k,l,o,i], eps)),  G[k,l,o,i] = sum_t W[k,o,i,t] W[l,o,i,t]

    In float32 at least, under autocast too. Where kernels cancel out, the sum may come out below zero. That of
    `modulated_conv2d` is the same with an eps of its own.
    """
    with torch.autocast(weight.device.type, enabled=False):
        high = torch.promote_types(weight.dtype, torch.float32)
        by_sample, by_filter = energies(weight.to(high), c.to(high), None if a is None else a.to(high))
        return (by_sample @ by_filter.T).clamp_min(eps).rsqrt()
