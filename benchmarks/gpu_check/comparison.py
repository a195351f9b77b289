"""Results compared with the truth, and what was wrong about them."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tolerance import Truth, assert_within

from .machine import Machine

Results = Sequence[Tensor | None]


class Wrong(Exception):
    """Names the kernel, the case and the precision, and says how far off it is."""


class Comparisons:
    """wrong: one line for each result that is not right."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.count = 0
        self.wrong: list[str] = []

    def check(
        self, what: str, run: Callable[[], Results], truth: Sequence[Truth | None], plain: Sequence[Results]
    ) -> None:
        """Notes what is wrong. Raises Wrong where the device answers no more, so that nothing else can be checked."""
        self.count += 1
        try:
            compare(what, run, truth, plain)
        except Wrong as wrong:
            self.wrong.append(str(wrong))
            try:
                self._machine.synchronize()
            except RuntimeError:
                raise Wrong(f"{wrong}; the device is lost") from None


def compare(what: str, run: Callable[[], Results], truth: Sequence[Truth | None], plain: Sequence[Results]) -> None:
    """All there, right, and bit by bit the same a second time; else raises Wrong."""
    try:
        results, again = run(), run()
    except Exception as error:
        raise Wrong(f"{what}: does not run, {type(error).__name__}: {str(error).strip()[:500]}") from error
    for exact, first, second in zip(truth, results, again, strict=True):
        if first is None or second is None or exact is None:
            if not first is second is exact is None:
                raise Wrong(f"{what}: a result is missing, or there is one that nobody asked for")
        elif not torch.equal(first.nan_to_num(nan=0.0), second.nan_to_num(nan=0.0)):
            raise Wrong(f"{what}: a second run gives another {exact.name}")
    try:
        assert_within([None if result is None else result.cpu() for result in results], truth, plain)
    except AssertionError as error:
        raise Wrong(f"{what}: {str(error).splitlines()[0]}") from None


@contextmanager
def poisoned(device: torch.device) -> Iterator[None]:
    """New tensors come full of NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            if not torch.empty(3, device=device).isnan().all():
                raise Wrong("new tensors are not poisoned, so nothing can be checked")
            yield
        finally:
            torch.use_deterministic_algorithms(False)
