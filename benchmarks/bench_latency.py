"""Latency under pytest-benchmark, one group per case. Start with `make bench`.

pytest-benchmark times each candidate on its own, minutes apart, which is too noisy for a ratio. So the first candidate
of a case also has all of them timed in turn, and that ratio to static F.conv2d stands in each one's extra_info."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import pytest

from .candidates import COMPILED, STATIC
from .cases import BATCHES, LAYOUTS, MODES, PLAIN_SHAPES, SHAPES, Case, Shape
from .measure import checked_calls
from .paired import Call, Rounds, Spread, alternate

CANDIDATES = (STATIC, "op", "op_static", "composite", "composite_static")
# Slow and far behind, so only where they are best known.
RIVALS = ("grouped", "loop")


def candidates(case: Case, compiled: bool) -> tuple[str, ...]:
    rivals = RIVALS if case.shape.name in PLAIN_SHAPES else ()
    return CANDIDATES + rivals + (COMPILED if compiled else ())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    compiled = metafunc.config.getoption("--compiled")

    def parameters() -> Iterator[object]:
        for mode, layout, shape, batch in product(MODES, LAYOUTS, SHAPES, BATCHES):
            case = Case(Shape.parse(shape), batch, layout, mode)
            for name in candidates(case, compiled):
                yield pytest.param(case, name, id=f"{shape}-b{batch}-{layout}-{mode}-{name}")

    metafunc.parametrize(("case", "candidate"), parameters())


@lru_cache(maxsize=1)
def measured(case: Case, names: tuple[str, ...], rounds: int) -> tuple[dict[str, Call], Rounds]:
    calls = checked_calls(case, names)
    return calls, alternate(calls, rounds)


def spread(values: Spread) -> dict[str, float | int]:
    return {"median": values.median, "low": values.low, "high": values.high, "rounds": values.count}


def test_latency(benchmark, pytestconfig: pytest.Config, case: Case, candidate: str) -> None:
    names = candidates(case, pytestconfig.getoption("--compiled"))
    calls, rounds = measured(case, names, pytestconfig.getoption("--rounds"))
    benchmark.group = case.name
    benchmark.extra_info.update(
        shape=case.shape.name,
        batch=case.batch,
        layout=case.layout,
        mode=case.mode,
        candidate=candidate,
        undisturbed=rounds.undisturbed,
        seconds=spread(rounds.time(candidate)),
        to_static=spread(rounds.ratio(candidate, STATIC)),
        to_composite=spread(rounds.ratio(candidate, "composite")),
    )
    iterations = max(1, round(0.02 / rounds.time(candidate).median))
    benchmark.pedantic(calls[candidate], rounds=3, iterations=iterations, warmup_rounds=1)
