"""How many operations the ops are, for torch.utils.flop_counter and the tools that count by it.

As everywhere there, a multiplication and an addition are two, and elementwise work does not count.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from math import prod
from types import ModuleType
from typing import Any, TypeAlias

import torch

_COUNTER = "torch.utils.flop_counter"

Shape: TypeAlias = Sequence[int]


def conv(input: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _conv(out_shape, weight)


def conv_backward(grad_output: Shape, input: Shape, weight: Shape, *others: Any, **_: Any) -> int:
    """One convolution for the gradients of input and channel attention, one for those in the place of the kernel.

    What mixes kernels is elementwise work.
    """
    for_input, for_weight, _, for_c, *for_kernel = others[-1]
    return _conv(grad_output, weight) * (any((for_input, for_c)) + any((for_weight, *for_kernel)))


def squeeze_excite(
    input: Shape, fc1_weight: Shape, fc1_bias: Shape | None, fc2_weight: Shape, *_: Any, **__: Any
) -> int:
    return 2 * input[0] * (prod(fc1_weight) + prod(fc2_weight))


def _conv(output: Shape, weight: Shape) -> int:
    return 2 * prod(output) * prod(weight[-3:])


def register(counter: ModuleType) -> None:
    for formula in (conv, conv_backward, squeeze_excite):
        counter.register_flop_formula(getattr(torch.ops.kerneldna, formula.__name__))(formula)


class _Finder:
    """Registers when somebody imports the counter. To import it here would take the time that Triton's import takes."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _COUNTER else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(counter: ModuleType) -> None:
                execute(counter)
                register(counter)

            spec.loader.exec_module = execute_and_register  # type: ignore
        return spec


if _COUNTER in sys.modules:
    register(sys.modules[_COUNTER])
else:
    sys.meta_path.insert(0, _Finder)
