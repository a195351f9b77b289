"""Which backend answers a call: the automatic choice, the explicit one, and the reasons.

A backend is a module of this folder, with its name. Its contract, in terms of call.py; the arguments have been checked,
and tensors may come in any memory format and go out in any:

    can_run(call) -> (bool, str)            whether it takes this call of conv and its backward, and why (not)
    conv(call) -> Tensor
    conv_backward(backward) -> tuple        the gradient of each tensor of the call, None where it is not asked for
    prepare(call or backward)               if it has one: what answers this call and all of its signature (_plans.py),
                                            as conv or conv_backward would, but faster
    runs_on(input) -> (bool, str)           the same as can_run of squeeze_excite
    squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias) -> Tensor

It may raise CannotRun from any of them but the two that are asked: then the next backend answers. One with candidates
and run, as triton and cuda have them, is measured by the autotuner.
"""

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

from ..call import AnyCall, BackwardCall, Call
from . import _plans, _tuned, _winners, composite, cpu
from ._plans import CannotRun as CannotRun

# In order of preference, unless the table of measured winners says otherwise (_winners.py).
AUTOMATIC = ("cpu", "triton", "cuda", "composite", "reference")
NAMES: tuple[str, ...] = AUTOMATIC
# One launch after the other is what squeeze_excite costs, so C++ comes before Triton.
_AUTOMATIC_SQUEEZE_EXCITE = ("cpu", "cuda", "triton", "composite")

_log = logging.getLogger("kerneldna_ops")


_registered: dict[str, ModuleType] = {}


def register(name: str, module: ModuleType) -> None:
    """For tests: another backend, which is taken by explicit choice alone (tests/cuda/host_execution)."""
    global NAMES
    _registered[name] = module
    NAMES = (*AUTOMATIC, *_registered)


def module_of(name: str) -> ModuleType:
    """The backend of this name. Most processes need few of them, and `import kerneldna_ops` is to take no time."""
    if name == "cpu":
        return cpu
    if name == "composite":
        return composite
    if name == "triton":
        from . import triton

        return triton
    if name == "cuda":
        from . import cuda

        return cuda
    if name == "reference":
        from . import reference

        return reference
    return _registered[name]


def check_name(name: str | None, source: str = "backend") -> str | None:
    """The name of a backend, or None for the automatic choice; a ValueError for anything else."""
    if name is not None and name not in NAMES:
        raise ValueError(f"{source} must be one of {', '.join(NAMES)}, got {name!r}")
    return name


_of_the_process = check_name(os.environ.get("KERNELDNA_BACKEND") or None, "KERNELDNA_BACKEND")

# What is done before a call that nobody tuned.
Reaction = Callable[[AnyCall], None]


def _tune(call: AnyCall) -> None:
    from . import _autotune

    _autotune.tune_and_keep(call)


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
        kernels_on_cuda = of_conv + 4  # conv with more than one kernel, after that on the CPU
        if self._holders:
            _select_in_python(list(range(kernels_on_cuda + 1)))
        else:
            on_cuda = (*range(_winners.CLASSES, of_conv), on_a_gpu_that_refuses, kernels_on_cuda)
            _select_in_python([*_winners.table("cpu"), *on_cuda])


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


_AS_IT_IS = nullcontext()


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
            return _AS_IT_IS if self.backend is None else use_backend(self.backend)
        stack = ExitStack()
        stack.enter_context(reacting(self.reaction))
        if self.backend is not None:
            stack.enter_context(use_backend(self.backend))
        return stack


def preference(call: AnyCall) -> dict[str, str]:
    """The backends in the order in which the automatic choice tries them for this call, each with the reason why."""
    winner = _winners.winner_of(call)
    order = dict.fromkeys(AUTOMATIC, "automatic choice")
    if winner is None:
        return order
    order.pop(winner.backend, None)
    return {winner.backend: f"automatic choice, {winner.reason}", **order}


# What a backend found out only in a call: (its name, function, shape class) -> the reason against such calls.
_refused: dict[tuple[str, str, str], str] = {}
# (name, reason) -> the warning of it, or None once it was given.
_warnings: dict[tuple[str, str], str | None] = {}


def refuse(name: str, function: str, shape_class: str, reason: str) -> None:
    """No call of this function and shape class goes to the backend from now on."""
    _refused[name, function, shape_class] = reason
    _warnings.setdefault((name, reason), f"{name} does not run {function} of {shape_class}: {reason}")
    _plans.forget()
    warn_once(name, reason)


def warn_once(name: str, reason: str) -> None:
    """Where the automatic choice passes a backend by for what it found out in a call: once for all calls."""
    if _thread.backend is None and (warning := _warnings.get((name, reason))):
        _warnings[name, reason] = None
        _log.warning(warning)


def cannot_run(name: str, reason: str) -> RuntimeError:
    """What is raised where a backend was chosen explicitly."""
    return RuntimeError(f"backend {name!r} cannot run this call: {reason}")


def refusal(name: str, function: str, shape_class: str) -> str:
    """The reason against such calls, or nothing."""
    return _refused.get((name, function, shape_class), "")


def can_run(name: str, call: AnyCall) -> tuple[bool, str]:
    """Whether a backend takes a call, and why (not)."""
    runs, reason = module_of(name).can_run(call.forward)
    if runs and _refused and (refused := refusal(name, call.function, _tuned.key_of(call.forward))):
        return False, refused
    return runs, reason


def select(call: AnyCall) -> ModuleType:
    """The backend that answers a call."""
    chosen, reaction = Asked.here()
    if reaction is not None and chosen in (None, "triton"):
        from . import _autotune

        _autotune.react(reaction, call)
    order = preference(call) if chosen is None else {chosen: "explicit choice"}
    return _first_that_runs(order, lambda name: can_run(name, call))


def _select_gate(input: Tensor, shape_class: str) -> ModuleType:
    chosen = _thread.backend
    names = _AUTOMATIC_SQUEEZE_EXCITE if chosen is None else (chosen,)

    def runs(name: str) -> tuple[bool, str]:
        runs, reason = module_of(name).runs_on(input)
        refused = refusal(name, "squeeze_excite", shape_class)
        return runs and not refused, refused or reason

    return _first_that_runs(dict.fromkeys(names, "automatic choice" if chosen is None else "explicit choice"), runs)


def _first_that_runs(order: dict[str, str], can_run: Callable[[str], tuple[bool, str]]) -> ModuleType:
    """The first of these backends, each with the reason why it is asked, that can run a call."""
    refusals: list[str] = []
    for name, why in order.items():
        runs, reason = can_run(name)
        warn_once(name, reason)
        if runs:
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s: %s, %s", name, why, "; ".join([reason, *refusals]))
            return module_of(name)
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


def plan_of(call: Call) -> _plans.Plan | None:
    """What answers this call of conv, if calls like it were answered here before."""
    return _plans.find(_signature(call))


def conv(call: Call) -> Tensor:
    """The output, in the memory format that the op gives it."""
    output: Tensor = _planned(call, call)
    return output


def conv_backward(backward: BackwardCall) -> tuple[Tensor | None, ...]:
    """The gradients that are asked for, in the memory formats that the op gives them, else None."""
    grads: tuple[Tensor | None, ...] = _planned(backward, backward.arguments)
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


def _planned(call: AnyCall, arguments: tuple[Any, ...]) -> Any:
    try:
        key = _signature(arguments)
        plan = _plans.find(key)
        if plan is None:
            plan = _plan(call)
            if _may_keep(call):
                _plans.keep(key, plan)
        return plan(call)
    except BaseException as error:
        _raised.keep(error)
        raise


def _may_keep(call: AnyCall) -> bool:
    """Not where the autotuner has yet to measure."""
    if _thread.reaction is None:
        return True
    from . import _autotune

    return _autotune.settled(call)


def _signature(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if _log.isEnabledFor(logging.DEBUG):  # then each call says what was chosen for it
        return None
    return _plans.signature((_thread.backend, _thread.reaction is not None), arguments)


def _plan(first: AnyCall) -> _plans.Plan:
    """What the selected backend answers; where it finds out only then that it cannot, what the next one does."""
    backend = select(first)
    prepare = getattr(backend, "prepare", None)
    run = getattr(backend, first.function) if prepare is None else prepare(first)

    def answer(call: AnyCall) -> Any:
        try:
            return run(call)
        except CannotRun as error:
            refuse(_name(backend), call.function, _tuned.key_of(call.forward), str(error))
        return _plan(call)(call)

    if isinstance(first, Call):
        memory_format = first.memory_format
        return lambda call: answer(call).contiguous(memory_format=memory_format)
    formats = first.memory_formats

    def gradients(call: AnyCall) -> tuple[Tensor | None, ...]:
        found = zip(answer(call), formats, strict=True)
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
