"""GigaGAN's sample-adaptive kernel selection: Kang et al., Scaling up GANs for Text-to-Image Synthesis (arXiv
2303.05511, section 3.1)."""

import torch
from torch import Tensor, nn

from .._modulation import attentions, in_autocast
from .._tracing import not_traced
from ..checks import check_modulation, check_tensor, flag
from ._checks import check_layer_input, check_per_sample, positive, whole
from ._fx import is_traced, leaf
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
    H_out, W_out] in the dtype of fmap, float64, float32, float16 or bfloat16. The weights, mod and kernel_mod may be
    float32 where that is float16 or bfloat16; norms are computed as in `modulated_conv2d`. mod and kernel_mod may be
    those of N / s samples, for a fmap that has s scales of them in a row.

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
        if is_traced(fmap, mod, kernel_mod):
            return leaf(self, fmap, mod, kernel_mod)  # type: ignore[no-any-return]
        check_layer_input("AdaptiveConv2DMod", fmap, self.dim, "weights", None, "fmap")
        modulation = {"weights": self.weights, "mod": self._for_all_scales("mod", mod, fmap, self.dim)}
        logits = self._logits(kernel_mod, fmap)
        if logits is not None:
            modulation["kernel_mod"] = logits
        autocast = in_autocast(fmap)
        check_modulation("AdaptiveConv2DMod", "fmap", fmap, modulation, autocast)
        styles, a = modulation["mod"] + 1, None if logits is None else logits.softmax(1)
        weight = self.weights[0] if a is None else self.weights
        weight, c, f, a = attentions(
            fmap, weight, styles, self.demod, autocast, kernel_attention=a, eps=self.eps, clamped=True
        )
        return self._convolve(fmap, weight, channel_attention=c, filter_attention=f, kernel_attention=a)

    def _logits(self, kernel_mod: Tensor | None, fmap: Tensor) -> Tensor | None:
        """Of the kernels' shares, [N, K], where there are several."""
        if isinstance(kernel_mod, Tensor):
            check_tensor("AdaptiveConv2DMod", "kernel_mod", kernel_mod)
        with not_traced():
            absent = kernel_mod is None or (isinstance(kernel_mod, Tensor) and kernel_mod.shape[-1:] == (0,))
        if self.num_conv_kernels == 1:
            if not absent:
                raise ValueError("AdaptiveConv2DMod: kernel_mod must be None where num_conv_kernels is 1")
            return None
        if absent:
            raise ValueError(f"AdaptiveConv2DMod: kernel_mod must be [N, {self.num_conv_kernels}], got none")
        return self._for_all_scales("kernel_mod", kernel_mod, fmap, self.num_conv_kernels)

    def _for_all_scales(self, name: str, values: Tensor | None, fmap: Tensor, size: int) -> Tensor:
        """[N, size], repeated where fmap has several scales of the samples."""
        if isinstance(values, Tensor):
            check_tensor("AdaptiveConv2DMod", name, values)
            with not_traced():
                samples, total = values.shape[0] if values.dim() == 2 else 0, fmap.shape[0]
                has_scales = samples and samples != total and total % samples == 0
            if has_scales:  # by sizes that a trace follows
                values = values.repeat(fmap.shape[0] // values.shape[0], 1)
        check_per_sample("AdaptiveConv2DMod", name, values, fmap, size)
        assert values is not None
        return values

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, demod={self.demod}, num_conv_kernels={self.num_conv_kernels}"
