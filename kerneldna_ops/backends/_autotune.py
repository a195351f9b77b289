"""Measures the candidates for a call and keeps the fastest. Only where it was asked for: tuning a shape takes seconds.

Candidates are composite, at most eleven ways of the Triton backend (backends/triton.py), and the CUDA backend. Each is
called as the op calls it, and the time of its kernels counts, not the host's. A candidate that does not run, for lack
of memory say, is left out.
"""

import contextlib
import functools
import logging
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .._latency import on_busy_cuda, on_cpu
from . import Reaction, _tuned, can_run, composite, cuda, reacting, triton
from ._tuned import Entry

_log = logging.getLogger("kerneldna_ops")

_RUNS, _SERIES = 20, 3
_FUSED = {"triton": triton, "cuda": cuda}


def autotune(on_tuned: Callable[[], object] = lambda: None) -> reacting:
    """Calls that a fused GPU backend can run measure their candidates if nobody has tuned their shape class here.

    For the calls of this thread; KERNELDNA_AUTOTUNE=1 does so for the whole process. What is found is kept on disk, in
    the folder KERNELDNA_CACHE (else kerneldna_ops in the user's folder for caches), by device, driver and versions of
    Triton and CUDA. While a CUDA graph is captured nothing is measured. on_tuned is called after each shape class.
    """

    def measure_and_keep(function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> None:
        tune_and_keep(function, conv_args, args)
        on_tuned()

    return reacting(measure_and_keep)


@contextmanager
def collect(on_compiled: Callable[[], object] = lambda: None) -> Iterator[set[tuple[str, str]]]:
    """The functions and shape classes of this thread's calls that the autotuner would measure, their kernels compiled.

    on_compiled is called after each kernel.
    """
    found: set[tuple[str, str]] = set()

    def look(function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> None:
        call = function, _tuned.key_of(*conv_args)
        if call not in found:
            found.add(call)
            _compile_candidates(function, conv_args, args, on_compiled)

    with reacting(look):
        yield found


def _compile_candidates(
    function: str,
    conv_args: tuple[Any, ...],
    args: tuple[Any, ...],
    on_compiled: Callable[[], object] = lambda: None,
) -> None:
    """The kernels of all candidates of the Triton backend at once, which else would be compiled one after the other."""
    if not can_run("triton", conv_args, function)[0] or triton.kernels("launch").interpreted:
        return
    launches: list[Any] = []
    for options in triton.candidates(function, conv_args):
        # What is wrong with a candidate will be seen when it is measured.
        with triton.kernels("launch").recording() as recorded, contextlib.suppress(Exception):
            triton.run(function, args, options)
        launches += recorded
    triton.kernels("ahead").compile_all(launches, conv_args[0].device, on_compiled)


def react(reaction: Reaction, function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> None:
    """Before a call of `function`, "conv" or "conv_backward", with args; conv_args are those of its forward."""
    if settled(function, conv_args):
        return
    if conv_args[0].device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return
    reaction(function, conv_args, args)


def settled(function: str, conv_args: tuple[Any, ...]) -> bool:
    """Whether nothing is left to measure for such a call."""
    return _tuned.find(function, conv_args) is not None or not _runnable(function, conv_args)


def _runnable(function: str, conv_args: tuple[Any, ...]) -> list[str]:
    return [name for name in _FUSED if can_run(name, conv_args, function)[0]]


def tune_and_keep(function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> None:
    entry = tune(function, conv_args, args)
    if entry.milliseconds:  # else nothing ran, which may have a reason of the moment, such as a lack of memory
        _tuned.table(conv_args[0].device).add(function, _tuned.key_of(*conv_args), entry)


def tune(function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> Entry:
    """The entry for the shape class of a call."""
    device = conv_args[0].device
    _compile_candidates(function, conv_args, args)
    milliseconds: dict[str, float] = {}

    def time_of(name: str, run: Callable[[], object]) -> float:
        try:
            milliseconds[name] = measure(run, device)
        except Exception as error:  # whatever a compiler or a driver has against it
            _log.info("autotune: %s left out: %s", name, error)
            return math.inf
        return milliseconds[name]

    best = {"composite": time_of("composite", lambda: getattr(composite, function)(*args))}
    options_of: dict[str, dict[str, Any]] = {}
    for name in _runnable(function, conv_args):
        backend = _FUSED[name]
        for options in backend.candidates(function, conv_args):
            way = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
            taken = time_of(way, functools.partial(backend.run, function, args, options))
            if taken < best.get(name, math.inf):
                best[name], options_of[name] = taken, options
    return Entry(min(best, key=best.__getitem__), options_of.get("triton", {}), milliseconds)


def measure(run: Callable[[], object], device: torch.device) -> float:
    """Median milliseconds of a run, with the device's caches as the run before left them; the first do not count."""
    run()
    if device.type == "cpu":
        return statistics.median(on_cpu(run) for _ in range(_SERIES))
    with torch.cuda.device(device):
        run()
        return statistics.median(on_busy_cuda(run, _RUNS)[0] for _ in range(_SERIES))
