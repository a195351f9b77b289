"""What the ops become in a graph that leaves for a place without this package: PyTorch's own operators.

So they do under torch.jit.trace, and with it under TensorBoard's add_graph and torch.onnx.export(dynamo=False), and in
ExportedProgram.run_decompositions(), and with it under torch.onnx.export(dynamo=True) and whatever else starts from
decomposed programs. The graph serves any batch and image size, and has no kernel for each sample.

torch.export by itself, torch.compile and AOTInductor keep the ops, which are faster and run without Python.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode

from .._arguments import with_defaults
from ..backends import composite
from ..checks import check_conv, check_squeeze_excite
from ..library import LIBRARY, register_kernel
from .registrations import checked


def conv(*args: Any) -> Tensor:
    args = with_defaults(*args)
    with _not_traced():
        checked(check_conv, "kerneldna::conv", *args)
        kernel_size = tuple(args[1].shape[2:])
    spatial_attention = args[5]
    if spatial_attention is not None and spatial_attention.dim() == 3:
        args = _pointwise(kernel_size, *args)
    return composite.conv(*args)


def squeeze_excite(*args: Any) -> Tensor:
    with _not_traced():
        checked(check_squeeze_excite, "kerneldna::squeeze_excite", *args)
    return composite.squeeze_excite(*args)


def _pointwise(
    kernel_size: tuple[int, ...],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_attention: Tensor | None,
    filter_attention: Tensor | None,
    spatial_attention: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> tuple[Any, ...]:
    """The same call without spatial attention: a 1x1 convolution of what each tap of the kernel sees, scaled by it."""
    if channel_attention is not None:
        input = input * channel_attention[..., None, None]
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = (
        [slice(tap * d, (tap + 1 - taps) * d or None, step) for tap in range(taps)]
        for taps, d, step in zip(kernel_size, dilation, stride, strict=True)
    )
    seen = torch.stack([padded[:, :, row, column] for row in rows for column in columns], 2)
    seen = (seen * spatial_attention.flatten(1)[:, None, :, None, None]).flatten(1, 2)
    weight = weight.flatten(1)[:, :, None, None]
    return seen, weight, bias, None, filter_attention, None, (1, 1), (0, 0), (1, 1), groups


@contextmanager
def _not_traced() -> Iterator[None]:
    """Sizes are numbers here, which torch.jit.trace would record."""
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


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
