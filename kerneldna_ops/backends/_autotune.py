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

from ..call import AnyCall, Call
from ..measure.time import device_sample, wall_sample
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

    def measure_and_keep(call: AnyCall) -> None:
        tune_and_keep(call)
        on_tuned()

    return reacting(measure_and_keep)


@contextmanager
def collect(on_compiled: Callable[[], object] = lambda: None) -> Iterator[set[tuple[str, str]]]:
    """The functions and shape classes of this thread's calls that the autotuner would measure, their kernels compiled.

    on_compiled is called after each kernel.
    """
    found: set[tuple[str, str]] = set()

    def look(call: AnyCall) -> None:
        known = call.function, _tuned.key_of(call.forward)
        if known not in found:
            found.add(known)
            _compile_candidates(call, on_compiled)

    with reacting(look):
        yield found


def _compile_candidates(call: AnyCall, on_compiled: Callable[[], object] = lambda: None) -> None:
    """The kernels of all candidates of the Triton backend at once, which else would be compiled one after the other."""
    if not can_run("triton", call)[0]:
        return
    from ..triton_kernels import ahead, launch

    if launch.interpreted:
        return
    launches: list[Any] = []
    for options in triton.candidates(call):
        # What is wrong with a candidate will be seen when it is measured.
        with launch.recording() as recorded, contextlib.suppress(Exception):
            triton.run(call, options)
        launches += recorded
    ahead.compile_all(launches, call.forward.input.device, on_compiled)


def react(reaction: Reaction, call: AnyCall) -> None:
    """Before a call that nobody tuned."""
    if settled(call):
        return
    if call.forward.input.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return
    reaction(call)


def settled(call: AnyCall) -> bool:
    """Whether nothing is left to measure for such a call."""
    return _tuned.find(call) is not None or not _runnable(call)


def _runnable(call: AnyCall) -> list[str]:
    return [name for name in _FUSED if can_run(name, call)[0]]


def tune_and_keep(call: AnyCall) -> None:
    entry = tune(call)
    if entry.milliseconds:  # else nothing ran, which may have a reason of the moment, such as a lack of memory
        _tuned.table(call.forward.input.device).add(call.function, _tuned.key_of(call.forward), entry)


def tune(call: AnyCall) -> Entry:
    """The entry for the shape class of a call."""
    device = call.forward.input.device
    _compile_candidates(call)
    milliseconds: dict[str, float] = {}

    def time_of(name: str, run: Callable[[], object]) -> float:
        try:
            milliseconds[name] = measure(run, device)
        except Exception as error:  # whatever a compiler or a driver has against it
            _log.info("autotune: %s left out: %s", name, error)
            return math.inf
        return milliseconds[name]

    def by_composite() -> object:
        return composite.conv(call) if isinstance(call, Call) else composite.conv_backward(call)

    best = {"composite": time_of("composite", by_composite)}
    options_of: dict[str, dict[str, Any]] = {}
    for name in _runnable(call):
        backend = _FUSED[name]
        for options in backend.candidates(call):
            way = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
            taken = time_of(way, functools.partial(backend.run, call, options))
            if taken < best.get(name, math.inf):
                best[name], options_of[name] = taken, options
    return Entry(min(best, key=best.__getitem__), options_of.get("triton", {}), milliseconds)


def measure(run: Callable[[], object], device: torch.device) -> float:
    """Median milliseconds of a run, with the device's caches as the run before left them; the first do not count."""
    run()
    if device.type == "cpu":
        return 1e3 * statistics.median(wall_sample(run)[0] for _ in range(_SERIES))
    with torch.cuda.device(device):
        run()
        return 1e3 * statistics.median(device_sample(run, _RUNS)[0] for _ in range(_SERIES))
