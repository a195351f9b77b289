"""The gradients of all six tensors of the op, put together from the kernels and, where chosen, from aten's.

    y[n, o, p] = f[n, o] * sum_t s[n, t] * sum_i W[o, t, i] * c[n, i] * x[n, i, p@t] + bias[o]

What is static (one for all samples) is multiplied into W once. What is left on the axes of the matrix products is then
plain or per sample, and the gradient of this W is one tensor of the size of the weight, from which those of the weight
itself and of all that is static follow.

What is per sample has its gradient in one of two ways (Choice.per_sample), of which backward_choice.py knows the price.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..call import ATTENTIONS, BackwardCall, Call
from .backward_choice import UNTUNED, BackwardConfigs, Choice, Wanted, use_blocks
from .conv_product import forward
from .conv_sample_blocks import sample_gradients
from .conv_spatial_gradient import spatial_gradients
from .conv_weight_gradient import weight_gradient
from .cost_model import device_running
from .operands import Scale, folded, image, pixels, reduction_scale, sample_scale, taps_of
from .problem import Problem
from .scale_and_dot import scale_and_dot

Gradients = tuple[Tensor | None, ...]


def gradients(
    backward: BackwardCall, problem: Problem, choice: Choice | None = None, configs: BackwardConfigs | None = None
) -> Gradients:
    """The gradients of the tensors that the mask asks for, else None, as that of kernel attention, which they have not.

    Each in the shape and dtype of its tensor, in any memory format. Without a choice it is UNTUNED, but this project's
    kernels where spatial attention is per sample. Raises ValueError where aten's are chosen there: they have no form.
    """
    tensors = backward.forward.tensors[:6]  # not of a mixture
    asked = [wanted and tensor is not None for wanted, tensor in zip(backward.output_mask, tensors, strict=False)]
    if not backward.grad_output.numel():
        found: Gradients = tuple(tensor if tensor is None else torch.zeros_like(tensor) for tensor in tensors)
    else:
        found = _Gradients(backward.grad_output, backward.forward, problem, choice, configs).of(asked)
    grads = (
        grad.to(tensor.dtype) if wanted and grad is not None and tensor is not None else None
        for grad, tensor, wanted in zip(found, tensors, asked, strict=True)
    )
    return *grads, None


class _Gradients:
    """Those of one call. c, f and s are the attentions per sample, None where they are static or absent."""

    def __init__(
        self,
        grad_output: Tensor,
        call: Call,
        problem: Problem,
        choice: Choice | None,
        configs: BackwardConfigs | None,
    ) -> None:
        self.grad_output, self.input, self.weight, self.problem = grad_output, call.input, call.weight, problem
        (self.static_c, self.c), (self.static_f, self.f), (self.static_s, self.s) = map(call.by_kind, ATTENTIONS)
        self.choice = choice or (UNTUNED if self.s is None else Choice())
        self.device = device_running(grad_output.device)
        self.configs = configs or BackwardConfigs.of(problem, self.device)
        if self.s is not None and "aten" in (self.choice.input, self.choice.weight):
            raise ValueError(f"aten has no gradients where spatial attention is per sample, got {self.choice}.")

    def of(self, asked: Sequence[bool]) -> Gradients:
        for_input, for_weight, for_bias, for_c, for_f, for_s = asked
        static = (for_c and self.c is None) or (for_f and self.f is None) or (for_s and self.s is None)
        wanted = Wanted(
            input=for_input,
            weight=for_weight or static,
            channel=for_c and self.c is not None,
            filter=for_f and self.f is not None,
            spatial=for_s and self.s is not None,
        )
        dx = dw = dc = df = ds = None
        if self._by_blocks(wanted):
            dw, df, dc, ds = self._blocks(wanted)
        else:
            dw = self._w() if wanted.weight else None
            df = self._filter() if wanted.filter else None
        if wanted.spatial and ds is None:
            dx, dc, ds = self._input_and_spatial(wanted.channel)
        elif wanted.input or (wanted.channel and dc is None):
            dx, dc = self._input(wanted.channel)
        d_weight = None
        if dw is not None:
            d_weight, *of_static = self._of_w(dw, for_weight, for_c, for_f, for_s)
            dc, df, ds = (b if a is None else a for a, b in zip((dc, df, ds), of_static, strict=True))
        return dx, d_weight, self.grad_output.sum((0, 2, 3)) if for_bias else None, dc, df, ds

    def _by_blocks(self, wanted: Wanted) -> bool:
        if self.choice.per_sample is None:
            return use_blocks(self.problem, wanted, self.device)
        return self.choice.per_sample == "blocks" and (wanted.weight or wanted.filter or wanted.spatial)

    def _blocks(self, wanted: Wanted) -> tuple[Tensor | None, ...]:
        """The gradients of w and of f, c and s per sample, [O, T, C/groups], [N, O], [N, C] and [N, KH, KW]."""
        for_c = wanted.channel and not wanted.input  # with the input's gradient it comes for nothing
        dw, df, dg = sample_gradients(
            *(self.gy, self.x, self.w, self.problem, self.configs.blocks, self.g, sample_scale(self.f)),
            for_weight=wanted.weight,
            for_filter=wanted.filter,
            for_scale=wanted.spatial or for_c,
        )
        if dg is None:
            return dw, df, None, None
        dc = ds = None
        if for_c:
            dc = (dg if self.s is None else dg * self.s.flatten(1)[:, :, None]).sum(1)
        if wanted.spatial:
            ds = (dg if self.c is None else dg * self.c[:, None, :]).sum(2).unflatten(1, self.problem.kernel_size)
        return dw, df, dc, ds

    def _w(self) -> Tensor:
        """[O, T, C/groups]"""
        if self.choice.weight == "kernel":
            return weight_gradient(self.gy, self.x, self.problem, self.configs.weight, self.g, sample_scale(self.f))
        return taps_of(self._aten(self.scaled_input, (False, True, False))[1])

    def _filter(self) -> Tensor | None:
        """Of f per sample [N, O]: the output before f, once more, and its product with grad_output."""
        if self.choice.weight == "kernel":
            return forward(self.x, self.w, self.problem, self.configs.forward, self.g, dot_with=self.gy).dots
        output: Tensor = torch.ops.aten.convolution(self.scaled_input, self.kernel, None, *self.geometry)
        return scale_and_dot(self.grad_output, output, None)[1]

    def _input(self, for_c: bool) -> tuple[Tensor, Tensor | None]:
        """[N, C, H, W], and of c per sample [N, C]."""
        if self.choice.input == "kernel":
            scale = reduction_scale(self.f, self.s, self.problem.out_channels)
            dot_with = self.x if for_c else None
            dx, dots = forward(
                *(self.gy, self.w, self.problem, self.configs.input, scale, sample_scale(self.c)),
                dot_with=dot_with,
                transposed=True,
            )
            return image(dx), dots
        before_c = self._aten(self.input, (True, False, False))[0]
        return scale_and_dot(before_c, self.input if for_c else None, self.c)

    def _input_and_spatial(self, for_c: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        """[N, C, H, W], of c per sample [N, C] and of s [N, KH, KW]."""
        assert self.s is not None
        dx, dc, ds = spatial_gradients(
            *(self.gy, self.x, self.w, self.problem, self.configs.spatial),
            *(self.s.flatten(1).contiguous(), sample_scale(self.f), sample_scale(self.c), for_c),
        )
        return image(dx), dc, ds.unflatten(1, self.problem.kernel_size)

    def _of_w(self, dw: Tensor, *asked: bool) -> tuple[Tensor | None, ...]:
        """From the gradient of w, the product of all that is static, those of the weight and of static c, f and s."""
        for_weight, for_c, for_f, for_s = asked
        c, f, s = self.static_c, self.static_f, self.static_s
        kernel_size, groups = self.problem.kernel_size, self.problem.groups
        weight = taps_of(self.weight)
        of_weight = static_c = static_f = static_s = None
        if for_weight:
            of_weight = folded(dw, c, f, s).unflatten(1, kernel_size).permute(0, 3, 1, 2)
        if for_c and c is not None:
            static_c = (folded(dw, None, f, s) * weight).unflatten(0, (groups, -1)).sum((1, 2)).flatten()
        if for_f and f is not None:
            static_f = (folded(dw, c, None, s) * weight).sum((1, 2))
        if for_s and s is not None:
            static_s = (folded(dw, c, f) * weight).sum((0, 2)).unflatten(0, kernel_size)
        return of_weight, static_c, static_f, static_s

    def _aten(self, input: Tensor, mask: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
        backward: Callable[..., tuple[Tensor, ...]] = torch.ops.aten.convolution_backward
        return backward(self.scaled_grad, input, self.kernel, None, *self.geometry, mask)

    @cached_property
    def x(self) -> Tensor:
        return pixels(self.input)

    @cached_property
    def gy(self) -> Tensor:
        return pixels(self.grad_output)

    @cached_property
    def w(self) -> Tensor:
        """[O, T, C/groups] with all that is static."""
        return folded(taps_of(self.weight), self.static_c, self.static_f, self.static_s)

    @cached_property
    def kernel(self) -> Tensor:
        """w in the shape of the weight."""
        kernel: Tensor = self.w.unflatten(1, self.problem.kernel_size)
        return kernel.permute(0, 3, 1, 2)

    @cached_property
    def g(self) -> Scale:
        return reduction_scale(self.c, self.s, self.problem.in_channels)

    @cached_property
    def scaled_input(self) -> Tensor:
        return scale_and_dot(self.input, None, self.c)[0]

    @cached_property
    def scaled_grad(self) -> Tensor:
        return scale_and_dot(self.grad_output, None, self.f)[0]

    @property
    def geometry(self) -> tuple[Any, ...]:
        problem = self.problem
        return problem.stride, problem.padding, problem.dilation, False, (0, 0), problem.groups
