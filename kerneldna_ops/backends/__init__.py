"""Which backend answers a call: the automatic choice, the explicit one, and the reasons."""

import functools
import importlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._contextlib import _DecoratorContextManager

from .._arguments import output_memory_format
from . import _plans, _tuned, _winners

# In order of preference, unless the table of measured winners says otherwise (_winners.py). A backend is a module of
# this folder with the functions
#     conv, conv_backward, squeeze_excite   the ops of those names; they take their arguments, by position
#     prepare                               may say what answers all calls like one of the first two, faster than they
#     can_run                               says with its reason whether the backend takes a call of the first two
#     runs_on                               the same of squeeze_excite, by its input
AUTOMATIC = ("cpu", "triton", "cuda", "composite", "reference")
NAMES = (*AUTOMATIC, "cuda_host")
# One launch after the other is what squeeze_excite costs, so C++ comes before Triton.
_AUTOMATIC_SQUEEZE_EXCITE = ("cpu", "cuda", "triton", "composite")

_log = logging.getLogger("kerneldna_ops")


def check_name(name: str | None, source: str = "backend") -> str | None:
    """The name of a backend, or None for the automatic choice; a ValueError for anything else."""
    if name is not None and name not in NAMES:
        raise ValueError(f"{source} must be one of {', '.join(NAMES)}, got {name!r}")
    return name


_of_the_process = check_name(os.environ.get("KERNELDNA_BACKEND") or None, "KERNELDNA_BACKEND")

# What is done before a call of a function ("conv" or "conv_backward") that nobody tuned: the call's arguments are those
# of its forward and its own.
Reaction = Callable[[str, tuple[Any, ...], tuple[Any, ...]], None]


def _tune(*call: Any) -> None:
    load("_autotune").tune_and_keep(*call)


class _Thread(threading.local):
    """What the thread asks for, until it says otherwise what the process does."""

    backend: str | None = _of_the_process
    reaction: Reaction | None = staticmethod(_tune) if os.environ.get("KERNELDNA_AUTOTUNE") == "1" else None


_thread = _Thread()


# The bare function under the op: torch.compile would take the op itself into a graph and, as nothing uses its result,
# drop it from there.
_select_in_python = torch.ops.kerneldna._select_in_python.default._op


class _Selection:
    """Tells the C++ library (csrc/selection.h) which classes of calls Python decides.

    All of them while any thread has an explicit choice. Else those on the CPU that another backend than the library's
    own wins, conv on CUDA, where tables are by shape, and squeeze_excite on a GPU that refuses the library's kernels.
    The choice belongs to a thread, the library's mask to the process: hence the count.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0

    def hold(self) -> None:
        with self._lock:
            self._holders += 1
            self.publish()

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            self.publish()

    def publish(self) -> None:
        of_conv = 2 * _winners.CLASSES  # on the CPU and on CUDA
        on_a_gpu_that_refuses = of_conv + 2  # squeeze_excite, after that on the CPU and that on CUDA
        if self._holders:
            _select_in_python(list(range(on_a_gpu_that_refuses + 1)))
        else:
            _select_in_python([*_winners.table("cpu"), *range(_winners.CLASSES, of_conv), on_a_gpu_that_refuses])


_selection = _Selection()
if _of_the_process is None:
    _selection.publish()
else:
    _selection.hold()


def chosen_backend() -> str | None:
    """The backend this thread asks for, through `use_backend` or KERNELDNA_BACKEND; None is the automatic choice."""
    return _thread.backend


class use_backend(_DecoratorContextManager):
    """Run every call of this thread on one backend; None returns to the automatic choice.

    A context manager and a decorator, in generators too as torch.no_grad is: as a decorator it holds while the
    generator runs, inside of one it holds until the block is left, for the caller as well.

    A call that the backend cannot run raises a RuntimeError with the reason. The backward of a call runs on the backend
    of its forward, wherever it is called. Code compiled by torch.compile asks each time it runs, backward included.

    Raises ValueError if there is no such backend.
    """

    def __init__(self, name: str | None) -> None:
        self._name = check_name(name)

    def clone(self) -> "use_backend":
        return use_backend(self._name)

    def __enter__(self) -> None:
        self._around = _thread.backend
        self._choose(self._name)

    def __exit__(self, *_: object) -> None:
        self._choose(self._around)

    @staticmethod
    def _choose(name: str | None) -> None:
        before, _thread.backend = _thread.backend, name
        # The thread that leaves may be another one than entered: what counts is which thread has a choice.
        if _of_the_process is None and (before is None) != (name is None):
            _selection.release() if name is None else _selection.hold()


class reacting(_DecoratorContextManager):
    """React so to every call of this thread that a fused GPU backend can run and nobody tuned."""

    def __init__(self, reaction: Reaction | None) -> None:
        self._reaction = reaction

    def clone(self) -> "reacting":
        return reacting(self._reaction)

    def __enter__(self) -> None:
        self._around, _thread.reaction = _thread.reaction, self._reaction

    def __exit__(self, *_: object) -> None:
        _thread.reaction = self._around


class Asked(NamedTuple):
    """What a thread asked for. Autograd's threads know nothing of the thread that called backward()."""

    backend: str | None
    reaction: Reaction | None

    @classmethod
    def here(cls) -> "Asked":
        return cls(_thread.backend, _thread.reaction)

    def again(self) -> AbstractContextManager[object]:
        """As in the thread that asked; what it did not ask for stays as it is around."""
        if self.reaction is None:
            return nullcontext() if self.backend is None else use_backend(self.backend)
        stack = ExitStack()
        stack.enter_context(reacting(self.reaction))
        if self.backend is not None:
            stack.enter_context(use_backend(self.backend))
        return stack


@functools.cache
def load(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def preference(args: tuple[Any, ...], function: str = "conv") -> dict[str, str]:
    """The backends in the order in which the automatic choice tries them for this call, each with the reason why.

    args are those of the forward, whichever of "conv" and "conv_backward" the function is.
    """
    winner = _winners.winner_of(args, function)
    order = dict.fromkeys(AUTOMATIC, "automatic choice")
    if winner is None:
        return order
    order.pop(winner.backend, None)
    return {winner.backend: f"automatic choice, {winner.reason}", **order}


# What a backend found out only in a call: (its name, function, shape class) -> the reason against such calls.
_refused: dict[tuple[str, str, str], str] = {}


class CannotRun(RuntimeError):
    """A backend found out only in the call that it cannot run it; the next one then answers this and all like it."""


def refuse(name: str, function: str, shape_class: str, reason: str) -> None:
    """No call of this function and shape class goes to the backend from now on."""
    _refused[name, function, shape_class] = reason
    _plans.forget()
    if _thread.backend is None:
        _log.warning("%s does not run %s of %s: %s", name, function, shape_class, reason)


def cannot_run(name: str, reason: str) -> RuntimeError:
    """What is raised where a backend was chosen explicitly."""
    return RuntimeError(f"backend {name!r} cannot run this call: {reason}")


def refusal(name: str, function: str, shape_class: str) -> str:
    """The reason against such calls, or nothing."""
    return _refused.get((name, function, shape_class), "")


def can_run(name: str, conv_args: tuple[Any, ...], function: str = "conv") -> tuple[bool, str]:
    """Whether a backend takes a call of `function`, "conv" or "conv_backward", whose forward has these arguments."""
    runs, reason = load(name).can_run(*conv_args)
    if runs and _refused and (refused := refusal(name, function, _tuned.key_of(*conv_args))):
        return False, refused
    return runs, reason


def select(function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> ModuleType:
    """The backend that answers a call of `function` with args; conv_args are those of its forward."""
    chosen, reaction = Asked.here()
    if reaction is not None and chosen in (None, "triton"):
        load("_autotune").react(reaction, function, conv_args, args)
    order = preference(conv_args, function) if chosen is None else {chosen: "explicit choice"}
    return _first_that_runs(order, lambda name: can_run(name, conv_args, function))


def _select_gate(input: Tensor, shape_class: str) -> ModuleType:
    chosen = _thread.backend
    names = _AUTOMATIC_SQUEEZE_EXCITE if chosen is None else (chosen,)

    def runs(name: str) -> tuple[bool, str]:
        runs, reason = load(name).runs_on(input)
        refused = refusal(name, "squeeze_excite", shape_class)
        return runs and not refused, refused or reason

    return _first_that_runs(dict.fromkeys(names, "automatic choice" if chosen is None else "explicit choice"), runs)


def _first_that_runs(order: dict[str, str], can_run: Callable[[str], tuple[bool, str]]) -> ModuleType:
    """The first of these backends, each with the reason why it is asked, that can run a call."""
    refusals: list[str] = []
    for name, why in order.items():
        runs, reason = can_run(name)
        if runs:
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s: %s, %s", name, why, "; ".join([reason, *refusals]))
            return load(name)
        refusals.append(f"not {name} because {reason}")
    raise cannot_run(name, reason)


_AWAITED = RuntimeError()


class _Raised(threading.local):
    """The error of a backend in Python, while somebody waits for it, for it holds on to the arguments of the call."""

    error: BaseException | None = None

    def keep(self, error: BaseException) -> None:
        if self.error is not None:
            self.error = error


_raised = _Raised()


def python_selects(input: Tensor | None) -> bool:
    """Whether this module may be asked for a call of conv, rather than the C++ library alone, which refuses None."""
    return input is not None and (_thread.backend is not None or not input.is_cpu)


def plan_of(args: tuple[Any, ...]) -> _plans.Plan | None:
    """What answers this call of conv, if calls like it were answered here before."""
    return _plans.find(_signature(args))


def conv(*args: Any) -> Tensor:
    """The output, in the memory format that the op gives it."""
    output: Tensor = _planned("conv", args, args)
    return output


def conv_backward(*args: Any) -> tuple[Tensor | None, ...]:
    """The gradients that the last argument asks for, in the memory formats that the op gives them, else None."""
    grads: tuple[Tensor | None, ...] = _planned("conv_backward", args[1:-1], args)
    return grads


def squeeze_excite(*args: Any) -> Tensor:
    shape_class = _tuned.gate_key_of(*args[:2])
    try:
        while True:
            backend = _select_gate(args[0], shape_class)
            try:
                gate: Tensor = backend.squeeze_excite(*args)
                return gate
            except CannotRun as error:
                refuse(_name(backend), "squeeze_excite", shape_class, str(error))
    except BaseException as error:
        _raised.keep(error)
        raise


def _planned(function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
    try:
        key = _signature(args)
        plan = _plans.find(key)
        if plan is None:
            plan = _plan(function, conv_args, args)
            if _thread.reaction is None or load("_autotune").settled(function, conv_args):
                _plans.keep(key, plan)
        return plan(*args)
    except BaseException as error:
        _raised.keep(error)
        raise


def _signature(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if _log.isEnabledFor(logging.DEBUG):  # then each call says what was chosen for it
        return None
    return _plans.signature((_thread.backend, _thread.reaction is not None), args)


def _plan(function: str, conv_args: tuple[Any, ...], args: tuple[Any, ...]) -> _plans.Plan:
    """What the selected backend answers; where it finds out only then that it cannot, what the next one does."""
    backend = select(function, conv_args, args)
    prepare = getattr(backend, "prepare", None)
    run = getattr(backend, function) if prepare is None else prepare(function, conv_args, args)

    def answer(run: Callable[..., Any], *args: Any) -> Any:
        try:
            return run(*args)
        except CannotRun as error:
            conv_args = args if function == "conv" else args[1:-1]
            refuse(_name(backend), function, _tuned.key_of(*conv_args), str(error))
        return _plan(function, conv_args, args)(*args)

    if function == "conv":
        memory_format = output_memory_format(args[0])
        return lambda *args: answer(run, *args).contiguous(memory_format=memory_format)
    formats = [
        output_memory_format(tensor) if wanted else None for tensor, wanted in zip(args[1:7], args[-1], strict=True)
    ]

    def gradients(*args: Any) -> tuple[Tensor | None, ...]:
        found = zip(answer(run, *args), formats, strict=True)
        return tuple(None if wanted is None else grad.contiguous(memory_format=wanted) for grad, wanted in found)

    return gradients


def _name(backend: ModuleType) -> str:
    return backend.__name__.rpartition(".")[2]


def call(op: Callable[..., Any], *args: Any) -> Any:
    """op(*args), raising what a backend in Python raised: on its way through the C++ library it loses type and text."""
    outer, _raised.error = _raised.error, _AWAITED
    original = None
    try:
        return op(*args)
    except RuntimeError as error:
        original = _raised.error
        if original is _AWAITED or original is None or original is error:
            raise
        raise original from None
    finally:
        _raised.error = outer
        del original  # a local variable would keep the error, which knows this frame, alive
