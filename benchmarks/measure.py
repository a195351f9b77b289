"""One case: every candidate checked against the reference, then timed in turn with static F.conv2d."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import kerneldna_ops
from kerneldna_ops.measure.memory import highest_during, peak_on_gpu, resident
from kerneldna_ops.measure.time import Rounds, alternate, host_clock

from .candidates import CANDIDATES, COMPILED, STATIC, Candidate, reference
from .cases import DIFFERENTIABLE, LAYOUTS, MODES, Case, Operands, Shape, make_operands, tf32_as_in, with_tensors
from .devices import CPU, clock_of, operand_sets

# Relative to the largest value of the tensor: a gate against timing a wrong answer, not a test of accuracy.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "tf32": 0.01, "float16": 0.01, "bfloat16": 0.05}
HOST_ROUNDS = 7

Call = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class LeftOut:
    """Why a candidate is not timed: it cannot run here, or `wrong`, its answer was not right or it raised."""

    why: str
    wrong: bool


@dataclass
class Measured:
    """Rounds are of those that were timed, static first; host and peaks, in bytes, are of GPUs only."""

    rounds: Rounds
    left_out: dict[str, LeftOut]
    host: Rounds | None = None
    peaks: dict[str, int] = field(default_factory=dict)


def prepare(candidate: Candidate, operands: Operands, mode: str) -> Call:
    """The call that is timed. It returns the output, or in training the gradients of all differentiable operands."""
    if mode == "forward":

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return [candidate.call(operands.call)]

        return forward

    tensors = [getattr(operands.call, name) for name in candidate.gradients]

    def training() -> Sequence[Tensor]:
        return torch.autograd.grad(candidate.call(operands.call), tensors, operands.grad_output)

    return training


def in_turn(calls: Iterable[Call]) -> Call:
    """Calls the next of them each time."""
    calls = list(calls)
    if len(calls) == 1:
        return calls[0]
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def sets_of(case: Case, static_modulation: bool) -> list[Operands]:
    """Copies of the operands for the calls to take turns on."""
    first = make_operands(case, static_modulation)
    moved = sum(tensor.nbytes for tensor in (first.call.input, first.call.weight, first.grad_output))
    copies = operand_sets(case.device, moved) - 1
    return [first, *(with_tensors(first, Tensor.clone, case.mode == "training") for _ in range(copies))]


class Check:
    """Of the candidates of a case, the one after the other."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.modes = MODES if case.mode == "training" else ("forward",)
        self._truths: dict[tuple[bool, str], Sequence[Tensor]] = {}

    def __call__(self, candidate: Candidate, operands: Operands) -> LeftOut | None:
        """Why the candidate is not to be timed: its output or one of its gradients is not the reference's, say."""
        if candidate.backend is not None:
            runs, reason = kerneldna_ops.explain_backends(**operands.call._asdict())[candidate.backend]
            if not runs:
                return LeftOut(reason, wrong=False)
        for mode in self.modes:
            try:
                actual = prepare(candidate, operands, mode)()
            except Exception as error:  # whatever a compiler or a driver has against it
                return LeftOut(f"{type(error).__name__}: {str(error).strip()[:300]}", wrong=True)
            if candidate.gradients != DIFFERENTIABLE:
                continue  # a static convolution, which is PyTorch's
            parts = ("output",) if mode == "forward" else candidate.gradients
            for part, got, wanted in zip(parts, actual, self._truth(candidate, operands, mode), strict=True):
                error = ((got - wanted).abs().max() / wanted.abs().max()).item()
                if not error <= TOLERANCE[self.case.dtype]:
                    return LeftOut(f"{part} is off by {error:.1e} of its range", wrong=True)
        return None

    def _truth(self, candidate: Candidate, operands: Operands, mode: str) -> Sequence[Tensor]:
        """By the reference, in float32 at least and without TF32."""
        key = candidate.static_modulation, mode
        if key not in self._truths:
            wide = torch.promote_types(operands.call.input.dtype, torch.float32)
            exact = with_tensors(operands, lambda tensor: tensor.to(wide), mode == "training")
            with tf32_as_in("float32"):
                self._truths[key] = prepare(Candidate("truth", reference), exact, mode)()
        return self._truths[key]


def checked_calls(case: Case, names: Sequence[str], checked: bool = True) -> tuple[dict[str, Call], dict[str, LeftOut]]:
    """The calls of the named candidates, ready to be timed and known to answer rightly, and why others are not."""
    if set(names) & set(COMPILED):
        torch.compiler.reset()  # code compiled for other cases counts against a limit, beyond which none is compiled
    sets = {which: sets_of(case, which) for which in {CANDIDATES[name].static_modulation for name in names}}
    check = Check(case)
    calls, left_out = {}, {}
    for name in names:
        candidate = CANDIDATES[name]
        operands = sets[candidate.static_modulation]
        fault = check(candidate, operands[0]) if checked else None
        if fault is None:
            calls[name] = in_turn(prepare(candidate, of, case.mode) for of in operands)
        else:
            left_out[name] = fault
    return calls, left_out


def measure(case: Case, calls: dict[str, Call], left_out: dict[str, LeftOut], rounds: int) -> Measured:
    """On a GPU the time of the device, and beside it that of the host and peak memory."""
    measured = Measured(alternate(calls, rounds, clock=clock_of(case.device)), left_out)
    if case.device != CPU:
        measured.host = alternate(calls, min(rounds, HOST_ROUNDS), clock=host_clock)
        measured.peaks = {name: peak_on_gpu(call) for name, call in calls.items()}
    return measured


def warm_up_torch() -> None:
    """Convolution library, autograd engine and threads start before memory is looked at, for all candidates alike."""
    for layout, mode in itertools.product(LAYOUTS, MODES):
        prepare(CANDIDATES[STATIC], make_operands(tiny(layout, mode)), mode)()
    torch.randn(64, 64) @ torch.randn(64, 64)


def tiny(layout: str, mode: str) -> Case:
    return Case(Shape.parse("16@5"), 1, layout, mode)


def peak_with_scratch(small: Callable[[], object], call: Callable[[], object]) -> int:
    """Bytes that a call takes at most in this process, which must have done nothing else yet. A small call first starts
    what is started once; memory that it leaves behind is scratch and counts."""
    before = resident("RssAnon")
    small()
    scratch = max(0, resident("RssAnon") - before)
    return scratch + highest_during(call)


def peak(case: Case, name: str) -> int:
    """Of one call of a candidate on the CPU, for kerneldna_ops.measure.memory.in_a_process."""
    candidate = CANDIDATES[name]

    def call(of: Case) -> Call:
        return prepare(candidate, make_operands(of, candidate.static_modulation), case.mode)

    warm_up_torch()
    return peak_with_scratch(lambda: call(tiny(case.layout, case.mode))(), call(case))
