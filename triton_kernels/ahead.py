"""Kernels compiled before they are called, several at once: from launches that were recorded instead of run."""

import contextlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import torch

from .launch import Launch

_MOST_THREADS = 32  # Triton's passes and ptxas, which take the time, let other threads of Python run

_known: set[tuple[torch.device, str]] = set()


def compile_all(launches: Iterable[Launch], device: torch.device, on_compiled: Callable[[], object]) -> None:
    """Compile for this device what of these launches this process has not compiled here before.

    on_compiled is called after each kernel. One that does not compile is left to its call, which says why.
    """
    wanted = {identity(launch): launch for launch in launches}
    wanted = {key: launch for key, launch in wanted.items() if (device, key) not in _known}
    if not wanted:
        return
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        for _ in as_completed([pool.submit(_compile, launch, device) for launch in wanted.values()]):
            on_compiled()
    _known.update((device, key) for key in wanted)


def _compile(launch: Launch, device: torch.device) -> None:
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        launch.kernel.warmup(grid=launch.grid, enable_fp_fusion=True, **launch.args, **launch.options)


def identity(launch: Launch) -> str:
    """What Triton specialises a kernel on."""
    sizes_alike = launch.kernel.do_not_specialize

    def of(name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return str(value.dtype), value.data_ptr() % 16 == 0
        if isinstance(value, int) and not isinstance(value, bool):
            specialised = None if name in sizes_alike else value if value == 1 else value % 16 == 0
            return specialised, abs(value) >= 2**31
        if hasattr(value, "block_shape"):  # a descriptor of the TMA
            return str(value.base.dtype), tuple(value.block_shape), getattr(value, "round_f32_to_tf32", False)
        return value

    constants = {param.name for param in launch.kernel.params if param.is_constexpr}
    args = {name: value if name in constants else of(name, value) for name, value in launch.args.items()}
    return f"{launch.kernel.__module__}.{launch.kernel.__name__} {args} {launch.options}"
