"""One cell: each of the project's candidates checked against composite in float32, then all timed in turn."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.candidates import composite, static
from benchmarks.cases import DIFFERENTIABLE, Operands
from benchmarks.paired import Spread
from kerneldna_ops.backends._tuned import key_of

from .cells import TOLERANCES, Candidate, Cell, args_of, candidates, operand_sets, operands, with_gradients
from .machine import Machine, precision
from .timing import Timed, in_turn, reason

Row = dict[str, Any]


def measure(machine: Machine, cell: Cell) -> tuple[list[Row], list[str]]:
    """A row for each candidate, and what was wrong."""
    with precision(cell.precision):
        found = candidates(machine, cell)
        sets = {kind: operand_sets(machine, cell, kind) for kind in ("cfs", "c")}
        sets["none"] = sets["cfs"]
        wrong = _wrong(cell, found, {kind: entries[0] for kind, entries in sets.items()})
        good = {name: candidate for name, candidate in found.items() if name not in wrong}
        timed = {name: [partial(c.call, o) for o in sets[c.attentions]] for name, c in good.items()}
        torch.backends.cudnn.benchmark = True
        try:
            result = in_turn(machine, timed)
        finally:
            torch.backends.cudnn.benchmark = False
        result.errors.update(wrong)
        rows = _rows(cell, found, result)
    return rows, [f"{cell.name}, {name}: {why}" for name, why in wrong.items() if why.startswith("wrong")]


def _rows(cell: Cell, found: Mapping[str, Candidate], result: Timed) -> list[Row]:
    where = {
        "section": cell.section,
        "mode": cell.mode,
        "shape": cell.shape.name,
        "batch": cell.batch,
        "precision": cell.precision,
    }
    rows = []
    for name, candidate in found.items():
        row = {**where, "candidate": name, "attentions": candidate.attentions}
        if candidate.way is not None:
            key = key_of(*args_of(operands(cell, torch.device("meta"), candidate.attentions), candidate.attentions))
            way = candidate.way
            row |= {"function": way.function, "backend": way.backend, "options": way.options, "key": key}
        if candidate.predicted is not None:
            row["predicted_us"] = round(candidate.predicted, 2)
        time = result.seconds.get(name)
        rows.append(row | (spread_us(time) if time else {"error": result.errors[name]}))
    return rows


def spread_us(time: Spread) -> dict[str, float]:
    """Microseconds: median and quartiles of so many rounds."""
    us, low, high = (round(seconds * 1e6, 2) for seconds in (time.median, time.low, time.high))
    return {"us": us, "low": low, "high": high, "rounds": time.count}


def _wrong(cell: Cell, found: Mapping[str, Candidate], examples: Mapping[str, Operands]) -> dict[str, str]:
    """Why candidates are not worth timing: they raise, or their results are not right."""
    truths = {kind: _truth(cell, examples[kind], kind) for kind in {c.attentions for c in found.values() if c.check}}
    wrong = {}
    for name, candidate in found.items():
        if not candidate.check:
            continue
        try:
            results = candidate.call(examples[candidate.attentions])
        except Exception as error:
            wrong[name] = reason(error)
            continue
        results = [results] if isinstance(results, Tensor) else list(results)
        error = off(results, truths[candidate.attentions])
        if not error <= TOLERANCES[cell.precision]:
            wrong[name] = f"wrong: off by {error:.1e} of the norm"
    return wrong


def off(results: list[Tensor | None], truth: list[Tensor | None]) -> float:
    """The largest ||result - truth|| / ||truth||; gradients that were not asked for are None. NaN if any is."""
    errors = [0.0]
    if len(results) == 6:  # of conv_backward, whose third is the bias's
        results = [result for i, result in enumerate(results) if i != 2]
    for result, exact in zip(results, truth, strict=True):
        if result is not None and exact is not None:
            errors.append(((result.float() - exact).norm() / exact.norm()).item())
    return max(errors, key=lambda error: (error != error, error))


def _truth(cell: Cell, o: Operands, kind: str) -> list[Tensor | None]:
    """By composite in float32, TF32 not allowed: the output, or the gradients of the five tensors."""
    names = (*DIFFERENTIABLE, "grad_output")
    wide = {name: getattr(o, name).detach().float().requires_grad_(name in DIFFERENTIABLE) for name in names}
    exact = replace(o, **wide)
    call = static if kind == "none" else composite
    with precision("fp32"):
        if cell.mode == "forward":
            with torch.no_grad():
                return [call(exact)]
        return list(with_gradients(call)(exact))
