"""What the ops become in a graph that leaves for a place without this package: PyTorch's own operators.

So they do under torch.jit.trace, and with it under TensorBoard's add_graph and torch.onnx.export(dynamo=False), and in
ExportedProgram.run_decompositions(), and with it under torch.onnx.export(dynamo=True) and whatever else starts from
decomposed programs. The graph serves any batch and image size, and has no kernel for each sample.

torch.export by itself, torch.compile and AOTInductor keep the ops, which are faster and run without Python.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode

from .._tracing import not_traced
from ..backends import _kernel_fold, composite
from ..call import Call
from ..checks import check_conv, check_squeeze_excite
from ..library import LIBRARY, register_kernel
from .registrations import checked


def conv(*args: Any) -> Tensor:
    call = Call(*args)
    with not_traced():
        checked(check_conv, "kerneldna::conv", call)
        kernel_size = tuple(call.kernel_shape[2:])
        kernels = call.kernels
    if kernels == "mixed":
        call = _kernel_fold.folded(call)
    elif kernels == "per_sample":
        return _by_product(kernel_size, call)
    if call.kind("spatial_attention") == "per_sample":
        call = _pointwise(kernel_size, call)
    return composite.conv(call)


def squeeze_excite(*args: Any) -> Tensor:
    with not_traced():
        checked(check_squeeze_excite, "kerneldna::squeeze_excite", *args)
    return composite.squeeze_excite(*args)


def _pointwise(kernel_size: tuple[int, ...], call: Call) -> Call:
    """The same call without spatial attention: a 1x1 convolution of what each tap of the kernel sees, scaled by it."""
    s = call.spatial_attention
    assert s is not None
    seen = (_seen(kernel_size, call) * s.flatten(1)[:, None, :, None, None]).flatten(1, 2)
    weight = call.weight.flatten(1)[:, :, None, None]
    folded = call._replace(input=seen, weight=weight, channel_attention=None, spatial_attention=None)
    return folded._replace(stride=(1, 1), padding=(0, 0), dilation=(1, 1))


def _by_product(kernel_size: tuple[int, ...], call: Call) -> Tensor:
    """With a kernel given for each sample: their products with what each tap of the kernel sees."""
    weight, s, f, bias = call.weight, call.spatial_attention, call.filter_attention, call.bias
    if s is not None:
        weight = weight * (s if call.kind("spatial_attention") == "static" else s[:, None, None])
    seen = _seen(kernel_size, call).flatten(1, 2).unflatten(1, (call.groups, -1))
    y = torch.einsum("ngok,ngkhw->ngohw", weight.flatten(2).unflatten(1, (call.groups, -1)), seen).flatten(1, 2)
    y = y if f is None else y * f[..., None, None]
    return y if bias is None else y + bias[..., None, None]


def _seen(kernel_size: tuple[int, ...], call: Call) -> Tensor:
    """Of the input times channel attention, what each tap of the kernel sees: [N, C_in, kh * kw, H_out, W_out]."""
    input, padding = call.input, call.padding
    if call.channel_attention is not None:
        input = input * call.channel_attention[..., None, None]
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = (
        [slice(tap * d, (tap + 1 - taps) * d or None, step) for tap in range(taps)]
        for taps, d, step in zip(kernel_size, call.dilation, call.stride, strict=True)
    )
    return torch.stack([padded[:, :, row, column] for row in rows for column in columns], 2)


def _in_decompositions(
    plain: Callable[..., Tensor],
    mode: FunctionalTensorMode,
    op: Any,
    types: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
) -> Any:
    """The rule for an op in the mode through which torch.compile and run_decompositions see it."""
    if torch.compiler.is_exporting() and not _inductor_compiles():
        with mode:
            return plain(*args, **(kwargs or {}))
    return mode.__torch_dispatch__(op, types, args, kwargs)


def _inductor_compiles() -> bool:
    inductor = sys.modules.get("torch._inductor.virtualized")
    return inductor is not None and inductor.V.aot_compilation


for _name, _plain in (("conv", conv), ("squeeze_excite", squeeze_excite)):
    register_kernel(_name, "Tracer", _plain)

    def _rule(*args: Any, plain: Callable[..., Tensor] = _plain) -> Any:
        return _in_decompositions(plain, *args)

    torch.library.register_torch_dispatch(f"kerneldna::{_name}", FunctionalTensorMode, _rule, lib=LIBRARY)
