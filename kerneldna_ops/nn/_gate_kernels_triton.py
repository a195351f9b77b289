"""Squeeze-and-excitation and its gradient by Triton's kernels, with the way back where one of them cannot be built."""

from typing import Any

from torch import Tensor

from .. import backends
from ..backends import _tuned, triton
from ..triton_kernels.failure import KernelFailure
from ._trainable_gate import Operands, Statistics

_NAME, _FUNCTION = "triton", "squeeze_excite in training"

# The calls whose kernels have run, by all that decides what is built for them.
_built: set[tuple[Any, ...]] = set()


def run_on(input: Tensor, fc1_weight: Tensor) -> bool:
    """Raises RuntimeError where this backend was chosen explicitly and has failed."""
    if not triton.runs_on(input)[0] or len(input) > _kernels().MOST_SAMPLES:
        return False
    refused = backends.refusal(_NAME, _FUNCTION, _shape_class(input, fc1_weight))
    if refused and backends.chosen_backend() == _NAME:
        raise backends.cannot_run(_NAME, refused)
    backends.warn_once(_NAME, refused)
    return not refused


def forward(operands: Operands, statistics: Statistics) -> tuple[Tensor, tuple[Tensor, ...]]:
    input, fc1_weight, *_ = operands
    call = (input.device, input.dtype, input.shape, input.stride(), len(fc1_weight), statistics[4:])
    # The first of the kernels counts the batch, and a later one may fail: then PyTorch's layers will count it.
    before = () if call in _built else tuple(tensor.clone() for tensor in statistics[:3])
    try:
        found: tuple[Tensor, tuple[Tensor, ...]] = _kernels().forward(operands, statistics)
    except KernelFailure as error:
        for tensor, value in zip(statistics[:3], before, strict=True):
            tensor.copy_(value)
        raise _refused(error, operands) from error
    _built.add(call)
    return found


def backward(
    grad: Tensor, operands: Operands, statistics: Statistics, gate: Tensor, kept: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    try:
        gradients: tuple[Tensor, ...] = _kernels().backward(grad, operands, statistics, gate, kept)
    except KernelFailure as error:
        raise _refused(error, operands) from error
    return gradients


def _refused(error: KernelFailure, operands: Operands) -> backends.CannotRun:
    backends.refuse(_NAME, _FUNCTION, _shape_class(*operands[:2]), str(error))
    return backends.CannotRun(str(error))


def _shape_class(input: Tensor, fc1_weight: Tensor) -> str:
    return _tuned.gate_key_of(input, fc1_weight)


def _kernels() -> Any:
    """They import triton, which takes its time."""
    from ..triton_kernels import squeeze_excite_training

    return squeeze_excite_training
