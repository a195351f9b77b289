"""Dynamic convolution as a function: torch.nn.functional.conv2d with three attentions over its weight."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import _arguments, _modulation, _resampling, _transposed, backends
from ._arguments import Padding, Pair, Single
from ._tracing import not_traced
from .call import ATTENTIONS, TENSORS, Call
from .checks import check_modulated_conv, check_resampling, flag

_conv = torch.ops.kerneldna.conv.default


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    kernel_attention: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Convolve each sample with `weight` modulated for it, without ever making a kernel per sample.

    y[n,o,p] = bias[o] +
        f[n,o] * sum_uv s[n,u,v] * sum_i weight[o,i,u,v] * c[n,i] * input[n,i, p*stride + (u,v)*dilation - padding]

    This is the general form of KernelDNA's child(x) = conv(x * c, W * (1 + s) * (1 + f)) (arXiv 2503.23379). The three
    attentions are factors: where a model learns an offset from 1, the caller adds the 1.

    With kernel_attention a the weight of sample n is sum_k a[n,k] * weight[k], and its bias sum_k a[n,k] * bias[k] if
    there are several: CondConv (arXiv 1904.04971, equation 1), dynamic convolution (arXiv 1912.03458) and, with the
    three others, ODConv (arXiv 2209.07947).

    Args:
        input: [N, C_in, H, W], or one image [C_in, H, W], float64, float32, float16 or bfloat16; the other tensors
            have its dtype and device. If it is channels_last, so is the output.
        weight: [C_out, C_in/groups, kh, kw], or with kernel_attention [K, C_out, C_in/groups, kh, kw].
        bias: [C_out], or with kernel_attention also [K, C_out].
        channel_attention: c, [N, C_in] for each sample or [C_in] for all, both also with [.., 1, 1] behind, as blocks
            of squeeze-and-excitation give them.
        filter_attention: f, [N, C_out] for each sample or [C_out] for all, both also with [.., 1, 1] behind.
        spatial_attention: s, over the taps of the kernel, [N, kh, kw] for each sample or [kh, kw] for all.
        kernel_attention: a, [N, K], also [N, K, 1, 1]: the shares of K kernels, which need not sum to 1.
        stride, padding, dilation, groups: as for torch.nn.functional.conv2d, integers of NumPy among them.
        backend: the backend of this call and of its backward; None leaves the choice to `kerneldna_ops.use_backend`.

    Returns:
        [N, C_out, H_out, W_out], of one image [C_out, H_out, W_out], differentiable to any order with respect to all
        tensors, in reverse and in forward mode.

    Raises:
        TypeError: an argument has the wrong type, or not the dtype of input.
        ValueError: a shape, a device or a number does not fit, or no backend has that name.
        RuntimeError: the backend cannot run this call.
    """
    tensors = (input, weight, bias, channel_attention, filter_attention, spatial_attention, kernel_attention)
    if has_torch_function(tensors):
        return _handed_over(
            conv2d, tensors, stride=stride, padding=padding, dilation=dilation, groups=groups, backend=backend
        )
    image = isinstance(input, Tensor) and input.dim() == 3
    args = _arguments.op_arguments(
        _arguments.one_sample("conv2d", input) if image else input,
        weight,
        bias,
        channel_attention,
        filter_attention,
        spatial_attention,
        stride,
        padding,
        dilation,
        groups,
        kernel_attention,
    )
    if torch.compiler.is_compiling():
        if backend is not None:
            raise RuntimeError("conv2d: backend= does not compile, put use_backend around the compiled call")
        output: Tensor = _conv(*args)
    else:
        args = _arguments.without_defaults(args)
        try:
            if backend is None:
                output = backends.call(_conv, *args)
            else:
                with backends.use_backend(backend):
                    output = backends.call(_conv, *args)
        except (RuntimeError, TypeError):
            # The op has checked everything already; what is left is to tell a wrong type from a wrong value.
            _arguments.check(Call(*args))
            raise
    return output[0] if image else output


def conv2d_per_sample(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """`conv2d` with a weight given for each sample, as hypernetworks make them: y[n] = conv2d(input[n], weight[n]).

    Args:
        input: [N, C_in, H, W].
        weight: [N, C_out, C_in/groups, kh, kw].
        bias: [C_out] for all samples or [N, C_out] for each.
        channel_attention, filter_attention, spatial_attention, stride, padding, dilation, groups, backend: as for
            `conv2d`.

    Returns:
        [N, C_out, H_out, W_out], as of `conv2d`.

    Raises:
        TypeError, ValueError, RuntimeError: as `conv2d`.
    """
    tensors = (input, weight, bias, channel_attention, filter_attention, spatial_attention)
    numbers: Any = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "backend": backend}
    if has_torch_function(tensors):
        return _handed_over(conv2d_per_sample, tensors, **numbers)
    if isinstance(weight, Tensor) and weight.dim() != 5:
        raise ValueError(
            "conv2d_per_sample: weight must be 5-D [N, C_out, C_in/groups, kh, kw], got"
            f" {weight.dim()}-D {list(weight.shape)}"
        )
    attentions: Any = dict(zip(ATTENTIONS, tensors[3:], strict=True))
    return conv2d(input, weight, bias, **attentions, **numbers)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    kernel_attention: Tensor | None = None,
    stride: Single = 1,
    padding: Single | Literal["same", "valid", "causal"] = 0,
    dilation: Single = 1,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """`conv2d` along one axis, torch.nn.functional.conv1d: of an image of a single row, with its kernels and gradients.

    Args:
        input: [N, C_in, L], or one sequence [C_in, L], dtypes as for `conv2d`.
        weight: [C_out, C_in/groups, k], or with kernel_attention [K, C_out, C_in/groups, k].
        bias: [C_out], or with kernel_attention also [K, C_out].
        channel_attention: c, [N, C_in] for each sample or [C_in] for all.
        filter_attention: f, [N, C_out] or [C_out].
        spatial_attention: s, over the taps of the kernel, [N, k] or [k].
        kernel_attention: a, [N, K], the shares of K kernels, as for `conv2d`.
        stride, dilation, groups: as for torch.nn.functional.conv1d.
        padding: an int, 'valid' (none), 'same' (stride 1) or 'causal': (k - 1)*dilation zeros in front and none behind,
            so that no output sees an input after its own place.
        backend: as for `conv2d`.

    Returns:
        [N, C_out, L_out], of one sequence [C_out, L_out].

    Raises:
        TypeError, ValueError, RuntimeError: as `conv2d`.
    """
    tensors = (input, weight, bias, channel_attention, filter_attention, spatial_attention, kernel_attention)
    if has_torch_function(tensors):
        return _handed_over(
            conv1d, tensors, stride=stride, padding=padding, dilation=dilation, groups=groups, backend=backend
        )
    sequence = isinstance(input, Tensor) and input.dim() == 2
    if sequence:
        input = _arguments.one_sample("conv1d", input)
    stride, dilation = _arguments.single("stride", stride), _arguments.single("dilation", dilation)
    if isinstance(padding, str):
        input, (side,) = _arguments.named_padding(input, weight, padding, stride, dilation, kernel_attention, axes=1)
    else:
        (side,) = _arguments.single("padding", padding)
    groups = _arguments.integer("groups must be an int", groups, op="conv1d")
    tensors = (input, *tensors[1:])
    try:
        row: Any = dict(zip(TENSORS, map(_arguments.as_row, TENSORS, tensors), strict=True))
        output = conv2d(
            **row, stride=(1, *stride), padding=(0, side), dilation=(1, *dilation), groups=groups, backend=backend
        )
    except (RuntimeError, TypeError, ValueError):
        # That speaks of conv2d and of a row.
        bias = _arguments.mixed_bias(bias, weight, kernel_attention, "conv1d")
        _arguments.check(Call.of((input, weight, bias, *tensors[3:]), (stride, (side,), dilation, groups)), axes=1)
        raise
    output = output.squeeze(-2)
    return output[0] if sequence else output


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    kernel_attention: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
    backend: str | None = None,
) -> Tensor:
    """Transposed convolution, torch.nn.functional.conv_transpose2d, with `weight` modulated for each sample.

    y[n,o,q] = bias[o] + f[n,o] * sum over i and all (p, u, v) with q = p*stride + (u,v)*dilation - padding of
        s[n,u,v] * weight[i,o,u,v] * c[n,i] * input[n,i,p]

    It is the gradient of `conv2d` with respect to its input, with c and f exchanged, and runs by those kernels.

    Args:
        input: [N, C_in, H, W], or one image [C_in, H, W], as for `conv2d`.
        weight: [C_in, C_out/groups, kh, kw], as torch.nn.ConvTranspose2d has it, or with kernel_attention
            [K, C_in, C_out/groups, kh, kw].
        bias: [C_out], or with kernel_attention also [K, C_out].
        channel_attention: c, [N, C_in] or [C_in], as for `conv2d`.
        filter_attention: f, [N, C_out] or [C_out].
        spatial_attention: s, [N, kh, kw] or [kh, kw].
        kernel_attention: [N, K], the shares of K kernels, as for `conv2d`.
        stride, padding, output_padding, groups, dilation: as for torch.nn.functional.conv_transpose2d.
        backend: as for `conv2d`.

    Returns:
        [N, C_out, H_out, W_out], of one image [C_out, H_out, W_out], channels_last if the input is; H_out is
        (H - 1)*stride - 2*padding + dilation*(kh - 1) + output_padding + 1. Differentiable to any order.

    Raises:
        TypeError, ValueError, RuntimeError: as `conv2d`.
    """
    tensors = (input, weight, bias, channel_attention, filter_attention, spatial_attention, kernel_attention)
    if has_torch_function(tensors):
        numbers = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        return _handed_over(conv_transpose2d, tensors, **numbers, groups=groups, backend=backend)
    op, image = "conv_transpose2d", isinstance(input, Tensor) and input.dim() == 3
    if backend is not None and torch.compiler.is_compiling():
        raise RuntimeError(f"{op}: backend= does not compile, put use_backend around the compiled call")
    kernel_attention = _arguments.without_pixel("kernel_attention", kernel_attention, op)
    call = Call(
        _arguments.one_sample(op, input) if image else input,
        weight,
        bias if kernel_attention is None else _arguments.mixed_bias(bias, weight, kernel_attention, op),
        _arguments.without_pixel("channel_attention", channel_attention, op),
        _arguments.without_pixel("filter_attention", filter_attention, op),
        spatial_attention,
        *(
            _arguments.pair("stride", stride, op),
            _arguments.pair("padding", padding, op),
            _arguments.pair("dilation", dilation, op),
        ),
        _arguments.integer("groups must be an int", groups, op=op),
        kernel_attention,
    )
    with nullcontext() if backend is None else backends.use_backend(backend):
        output = _transposed.conv_transpose(call, _arguments.pair("output_padding", output_padding, op))
    return output[0] if image else output


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool = True,
    padding: Padding = 0,
    up: Literal[1, 2] = 1,
    down: Literal[1, 2] = 1,
    resample_filter: Tensor | None = None,
    flip_weight: bool = True,
    input_gain: Tensor | float | None = None,
    kernel_attention: Tensor | None = None,
) -> Tensor:
    """StyleGAN's and GigaGAN's modulated convolution as one call of the op, without weights for each sample.

    y_n = conv(x_n, w_n) with w_n[o,i,u,v] = weight[o,i,u,v] * styles[n,i] (modulation), divided by the square root of
    sum_iuv w_n[o,i,u,v]^2 + 1e-8 where `demodulate` (StyleGAN2, arXiv 1912.04958, section 2.2, equations 1 to 3). Here
    the styles are channel attention and the demodulation filter attention, so that there is no fused_modconv to switch
    off in training. Differentiable to any order, as R1 and path length regularisation ask.

    Sizes change as in StyleGAN2-ADA's conv2d_resample (arXiv 2006.06676): up=2 is conv_transpose2d with stride 2 and a
    pass of the filter, times 4, over what it gives; down=2 is a pass of the filter and a convolution with stride 2.
    With kernel_attention w_n is that of sum_k kernel_attention[n,k] * weight[k], GigaGAN's adaptive kernel selection
    (arXiv 2303.05511, section 3.1), and is divided by the square root of max(sum_iuv w_n^2, 1e-8), as there.

    Noise is added to what this returns. That StyleGAN3 (arXiv 2106.12423) normalises weight and styles before only
    changes what its 1e-8 is added to.

    Args:
        x: [N, C_in, H, W], float64, float32, float16 or bfloat16.
        weight: [C_out, C_in, kh, kw], or with kernel_attention [K, C_out, C_in, kh, kw], in the dtype of x or, where x
            is float16 or bfloat16, in float32.
        styles: [N, C_in], dtype as for weight. 0 switches a channel off; negative values are right. GigaGAN's are its
            mod + 1.
        demodulate: whether each filter of each sample is divided by its norm. That is summed in float32 at least, of
            weight and styles divided by their largest values where squares could overflow, as StyleGAN2-ADA does in
            float16; without demodulation, in a torgb layer, the caller keeps the output within range.
        padding: as for `conv2d`; where a size changes an int or a pair, of the convolution as it would be without.
        up, down: 1 or 2, not both 2.
        resample_filter: [taps] along both axes, or [rows, columns], as upfirdn2d.setup_filter gives it, in float32 or
            the dtype of x; None: no filter.
        flip_weight: True for a correlation, as F.conv2d is, False for a convolution, as StyleGAN2 has it where up=2.
        input_gain: StyleGAN3's, a number or a tensor [], [C_in] or [N, C_in], dtype as for weight: multiplies x.
        kernel_attention: [N, K], also [N, K, 1, 1], dtype as for weight: the shares of K kernels.

    Returns:
        [N, C_out, H_out, W_out] in the dtype of x, or that of autocast; channels_last if x is.

    Raises:
        TypeError, ValueError: an argument does not fit; one sentence says which and why.
    """
    tensors = (x, weight, styles, resample_filter, input_gain, kernel_attention)
    if has_torch_function(tensors):  # as in _handed_over
        arguments = (*tensors[:3], demodulate, padding, up, down, resample_filter, flip_weight, *tensors[4:])
        return handle_torch_function(modulated_conv2d, tensors, *arguments)
    op = "modulated_conv2d"
    flag(op, "demodulate", demodulate)
    flag(op, "flip_weight", flip_weight)
    factors = _arguments.integer("up must be 1 or 2", up, op=op), _arguments.integer("down must be 1 or 2", down, op=op)
    kernel_attention = _arguments.without_pixel("kernel_attention", kernel_attention, op)
    sides: Any = padding if isinstance(padding, str) else _arguments.pair("padding", padding, op)
    autocast = _modulation.in_autocast(x)
    if torch._C._get_tracing_state() is None:  # to compare sizes would be recorded, with a warning
        check_modulated_conv(op, x, weight, styles, input_gain, kernel_attention, autocast)
    with not_traced():
        check_resampling(op, x, *factors, sides, resample_filter)
    clamped = kernel_attention is not None
    weight, c, f, a = _modulation.attentions(
        x, weight, styles, demodulate, autocast, input_gain, kernel_attention, clamped=clamped
    )
    if flip_weight if factors[0] == 2 else not flip_weight:  # conv2d is a correlation, conv_transpose2d a convolution
        weight = weight.flip((-2, -1))
    attentions: Any = {"channel_attention": c, "filter_attention": f, "kernel_attention": a}
    if factors == (1, 1):
        return conv2d(x, weight, **attentions, padding=padding)
    if factors == (1, 2):
        x = _resampling.low_pass(x, resample_filter, _resampling.before_down(sides, resample_filter), gain=1)
        return conv2d(x, weight, **attentions, stride=2)
    too_many, around = _resampling.around_up(weight, sides, resample_filter)
    y = conv_transpose2d(x, weight.transpose(-4, -3), **attentions, stride=2, padding=too_many)
    return _resampling.low_pass(y, resample_filter, around, gain=4)


def _handed_over(function: Callable[..., Tensor], tensors: tuple[Tensor | None, ...], **numbers: Any) -> Tensor:
    """The call as one of a subclass's own or of torch.fx, whose graph gets the function: a value that is not there yet
    has no size by which to tell one form of an argument from another."""
    attentions = dict(zip(TENSORS[3:], tensors[3:], strict=False))
    output: Tensor = handle_torch_function(function, tensors, *tensors[:3], **attentions, **numbers)
    return output


def explain_backends(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    channel_attention: Tensor | None = None,
    filter_attention: Tensor | None = None,
    spatial_attention: Tensor | None = None,
    kernel_attention: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> dict[str, tuple[bool, str]]:
    """For each backend, preferred first, whether it can run this call of `conv2d`, and a sentence on why (not)."""
    if isinstance(input, Tensor) and input.dim() == 3:
        input = _arguments.one_sample("conv2d", input)
    attentions = (channel_attention, filter_attention, spatial_attention)
    geometry = (stride, padding, dilation, groups)
    call = Call(*_arguments.op_arguments(input, weight, bias, *attentions, *geometry, kernel_attention))
    _arguments.check(call)
    names = dict.fromkeys((*backends.preference(call), *backends.NAMES))
    return {name: backends.can_run(name, call) for name in names}


def compatible_backends(*args: Any, **kwargs: Any) -> list[str]:
    """The backends that can run this call of `conv2d`, preferred first; `explain_backends` says why not the others."""
    return [name for name, (runs, _) in explain_backends(*args, **kwargs).items() if runs]
