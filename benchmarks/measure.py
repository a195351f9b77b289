"""One case: every candidate checked against the reference, then timed in turn with static F.conv2d."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from .candidates import CANDIDATES, STATIC, Candidate, reference
from .cases import MODES, Case, Operands, make_operands
from .paired import Rounds, alternate

# Float32, relative to the largest value of the tensor: a gate against timing a wrong answer, not a test of accuracy.
TOLERANCE = 1e-4


def prepare(candidate: Candidate, operands: Operands, mode: str) -> Callable[[], Sequence[Tensor]]:
    """The call that is timed. It returns the output, or in training the gradients of all differentiable operands."""
    if mode == "forward":

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return [candidate.call(operands)]

        return forward

    tensors = [getattr(operands, name) for name in candidate.gradients]

    def training() -> Sequence[Tensor]:
        return torch.autograd.grad(candidate.call(operands), tensors, operands.grad_output)

    return training


def check(case: Case, names: Sequence[str], operands: dict[bool, Operands]) -> None:
    """Raises AssertionError where a candidate's output or one of its gradients is not the reference's."""
    modes = MODES if case.mode == "training" else ("forward",)
    truths: dict[tuple[bool, str], Sequence[Tensor]] = {}
    for name, mode in product(names, modes):
        candidate = CANDIDATES[name]
        which = candidate.static_modulation
        if name == STATIC:
            continue
        if (which, mode) not in truths:
            truths[which, mode] = prepare(Candidate("truth", reference), operands[which], mode)()
        actual = prepare(candidate, operands[which], mode)()
        parts = ("output",) if mode == "forward" else candidate.gradients
        for part, got, wanted in zip(parts, actual, truths[which, mode], strict=True):
            error = (got - wanted).abs().max() / wanted.abs().max()
            assert error <= TOLERANCE, f"{name}, {case.name}: {part} is off by {error:.1e} of its range"


def checked_calls(case: Case, names: Sequence[str], checked: bool = True) -> dict[str, Callable[[], Sequence[Tensor]]]:
    """The calls of the named candidates, ready to be timed and known to answer rightly."""
    operands = {which: make_operands(case, which) for which in {CANDIDATES[name].static_modulation for name in names}}
    if checked:
        check(case, names, operands)
    return {n: prepare(CANDIDATES[n], operands[CANDIDATES[n].static_modulation], case.mode) for n in names}


def measure(case: Case, names: Sequence[str], rounds: int, checked: bool = True) -> Rounds:
    return alternate(checked_calls(case, names, checked), rounds)
