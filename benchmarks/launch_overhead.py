"""What a call of the op costs the host before its kernel runs, as a ratio to F.conv2d on the CPU.

    python -m benchmarks.launch_overhead

The Triton backend takes tensors of the CPU here, and its kernels launch nothing, so that what is left is the way from
the op to a launch. All calls are measured in turn, in the processor's time of this thread.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kerneldna_ops import use_backend
from kerneldna_ops.backends import _plans
from kerneldna_ops.measure.time import Sample, Timed, alternate

WARMUPS, ROUNDS, CALLS = 3, 30, 100


class Kernel:
    """Takes the place of a Triton kernel. What is launched through Triton's search for the compiled kernel comes to
    `searched`, what is launched directly to `direct`."""

    def __init__(self, arg_names: list[str]) -> None:
        self.arg_names = arg_names
        self.searched: list[tuple[Any, ...]] = []
        self.direct: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., "_Compiled"]:
        def search(*args: Any, enable_fp_fusion: bool, **named: Any) -> _Compiled:
            self.searched.append((grid, args, named))
            return _Compiled(self.direct)

        return search


class _Compiled:
    def __init__(self, launches: list[tuple[Any, ...]]) -> None:
        self._launches = launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args: self._launches.append((grid, args))


@contextmanager
def without_launches() -> Iterator[dict[str, Kernel]]:
    """The kernels of the forward replaced; the backend "triton" runs on the CPU."""
    from kerneldna_ops.triton_kernels import conv_forward, conv_forward_tma, conv_product, tf32

    places: dict[str, ModuleType] = {
        "conv_kernel": conv_forward,
        "conv_reduce_kernel": conv_forward,
        "conv_tma_kernel": conv_forward_tma,
        "round_kernel": tf32,
    }

    def forget() -> None:
        _plans.forget()
        conv_product.products.cache_clear()

    real = {name: getattr(module, name) for name, module in places.items()}
    kernels = {name: Kernel(kernel.arg_names) for name, kernel in real.items()}
    interpreted = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"  # without it the backend takes no tensor of the CPU
    forget()
    for name, module in places.items():
        setattr(module, name, kernels[name])
    try:
        with use_backend("triton"):
            yield kernels
    finally:
        for name, module in places.items():
            setattr(module, name, real[name])
        forget()
        os.environ.pop("TRITON_INTERPRET")
        if interpreted is not None:
            os.environ["TRITON_INTERPRET"] = interpreted


def operands(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """All three attentions per sample on 1x8x4x4, 1x1, in the layout of the kernels."""
    shapes = (1, 8, 4, 4), (8, 8, 1, 1), (8,), (1, 8), (1, 8), (1, 1, 1)
    input, *others = (torch.randn(shape).to(dtype) for shape in shapes)
    return [input.contiguous(memory_format=torch.channels_last), *others]


def processor_clock(call: Timed, _: float) -> Callable[[], Sample]:
    """What a call takes of this thread's time, whoever else has the processor meanwhile."""

    def take() -> Sample:
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        return (time.thread_time() - start) / CALLS, True

    return take


def main() -> None:
    torch.set_num_threads(1)
    op = torch.ops.kerneldna.conv
    with without_launches() as kernels, torch.no_grad():
        args, half = operands(), operands(torch.float16)
        nchw = [args[0].contiguous(), *args[1:]]
        plain = nchw[:3]

        def forget_launches() -> None:
            for kernel in kernels.values():
                kernel.direct.clear()

        def in_inference_mode() -> None:
            with torch.inference_mode():
                op(*args)

        rounds = alternate(
            {
                "F.conv2d on the CPU": lambda: F.conv2d(*plain),
                "float32, channels_last": lambda: op(*args),
                "float32, channels_last, inference mode": in_inference_mode,
                "float32, NCHW": lambda: op(*nchw),
                "float16, channels_last": lambda: op(*half),
            },
            ROUNDS,
            clock=processor_clock,
            warmups=WARMUPS,
            on_round=forget_launches,
        )
    for name in rounds.seconds:
        ratio = rounds.ratio(name, "F.conv2d on the CPU")
        print(f"{name:40} {1e6 * rounds.time(name).median:6.1f} us   {ratio:.2f}")


if __name__ == "__main__":
    main()
